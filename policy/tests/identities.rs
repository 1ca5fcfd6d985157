//! Identity numbers under random assignment, release and forgetting, on label sets whose hashes collide.

use std::collections::{BTreeMap, BTreeSet};

use policy::identity::Identities;
use policy::snapshot::Labels;

#[path = "corpus/random.rs"]
mod random;

/// Label sets that are searched for collisions; about 50 pairs are expected among 2^24 numbers.
const SEARCHED: u32 = 40_000;
const STEPS: usize = 20_000;

fn labels(n: u32) -> Labels {
    // Spread out: values that only count up collide less often than chance.
    let value = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    BTreeMap::from([("k8s:app".to_owned(), format!("{value:x}"))])
}

/// The number of a label set that is alone.
fn first_choice(labels: &Labels) -> u32 {
    Identities::default().assign(labels).expect("a free number")
}

/// Label sets of which each wants a number, or the one below it, that another wants too.
fn colliding() -> Vec<Labels> {
    let mut by_number: BTreeMap<u32, Vec<Labels>> = BTreeMap::new();
    for n in 0..SEARCHED {
        by_number.entry(first_choice(&labels(n))).or_default().push(labels(n));
    }
    let near = |number: u32, there: &[Labels]| {
        let below = by_number.contains_key(&(number - 1));
        there.len() > 1 || below || by_number.contains_key(&(number + 1))
    };
    by_number.iter().filter(|(n, there)| near(**n, there)).flat_map(|(_, there)| there.clone()).collect()
}

#[test]
fn numbers_are_stable_unique_and_not_reused_before_they_are_forgotten() {
    let sets = colliding();
    let wanted: BTreeSet<u32> = sets.iter().map(first_choice).collect();
    assert!(wanted.len() + 10 < sets.len(), "{} sets want {} numbers", sets.len(), wanted.len());
    let mut random = random::Random::new(7);
    let mut identities = Identities::default();
    let mut live: BTreeMap<Labels, u32> = BTreeMap::new();
    let mut released: BTreeMap<u32, Labels> = BTreeMap::new();
    let mut pushed_on = 0;
    for _ in 0..STEPS {
        let set = &sets[random.below(sets.len())];
        match random.below(10) {
            0..=4 => {
                let number = identities.assign(set).expect("a free number");
                if let Some(before) = live.insert(set.clone(), number) {
                    assert_eq!(before, number, "the number of {set:?} changed while it was in use");
                }
                if let Some(owner) = released.remove(&number) {
                    assert_eq!(owner, *set, "{number} was given away before it was forgotten");
                }
                pushed_on += usize::from(number != first_choice(set));
            }
            5..=7 => {
                if let Some(number) = live.remove(set) {
                    identities.release(number);
                    released.insert(number, set.clone());
                }
            }
            _ => {
                let Some(number) = released.keys().nth(random.below(released.len().max(1))).copied() else {
                    continue;
                };
                identities.forget(number);
                released.remove(&number);
            }
        }
        if random.below(50) == 0 {
            let stored = serde_json::to_value(&identities).expect("it is serialisable");
            let read: Identities = serde_json::from_value(stored).expect("what was stored");
            assert_eq!(read, identities);
            identities = read;
        }
    }
    assert!(pushed_on > 100, "too few collisions met: {pushed_on}");
    let numbers: BTreeSet<u32> = live.values().copied().collect();
    assert_eq!(numbers.len(), live.len(), "two label sets have one number");
    for (set, number) in &live {
        assert!((abi::IDENTITY_FIRST..=abi::IDENTITY_LAST).contains(number));
        assert_eq!(identities.labels(*number), Some(set));
    }
    let listed: BTreeMap<Labels, u32> = identities.iter().map(|(n, l)| (l.clone(), n)).collect();
    assert_eq!(listed, live);
}

#[test]
fn nodes_that_never_met_agree() {
    let sets: Vec<Labels> = (0..200).map(labels).collect();
    let (mut one, mut two) = (Identities::default(), Identities::default());
    let forward: Vec<u32> = sets.iter().map(|set| one.assign(set).expect("a number")).collect();
    let mut backward: Vec<u32> = sets.iter().rev().map(|set| two.assign(set).expect("a number")).collect();
    backward.reverse();
    assert_eq!(forward, backward);
}
