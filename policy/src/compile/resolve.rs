//! Whom the rules mean: peers resolved to identities, once for equal peers and again only for identities
//! that are new or changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Sourced;
use super::numbers::RuleNumbers;
use super::peers::{PeerInfo, Peers};
use crate::compiled::RuleRef;
use crate::model::{self, PortSpec, Rule};
use crate::snapshot::PolicyObject;

/// A rule with its peers resolved and its parts numbered.
#[derive(Debug)]
pub(super) struct Resolved<'a> {
    pub(super) rule: &'a Rule,
    /// `None`: any.
    pub(super) peers: Option<Arc<BTreeSet<u32>>>,
    /// One number for each element of `ports`, or the one of the whole rule.
    pub(super) numbers: Vec<u32>,
    /// Another one whenever anything of this has changed.
    pub(super) stamp: u64,
}

impl Resolved<'_> {
    /// Whether a port is given by name.
    pub(super) fn has_named_ports(&self) -> bool {
        let ports = self.rule.ports.iter().flatten().flat_map(|p| &p.ports);
        ports.into_iter().any(|p| matches!(p.port, PortSpec::Name(..)))
    }
}

/// What is kept between revisions.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    stamps: u64,
    table: BTreeMap<u32, PeerInfo>,
    ports_stamp: u64,
    peers: HashMap<model::Peers, Option<Arc<BTreeSet<u32>>>>,
    objects: HashMap<String, Object>,
}

/// One policy object as it was in the last revision.
#[derive(Debug)]
struct Object {
    object: Arc<PolicyObject>,
    /// Since the revision before.
    unchanged: bool,
    rules: Vec<KnownRule>,
}

#[derive(Debug)]
struct KnownRule {
    peers: Option<Arc<BTreeSet<u32>>>,
    numbers: Vec<u32>,
    stamp: u64,
}

impl Resolver {
    pub(super) fn resolve<'a>(
        &mut self,
        rules: &[Sourced<'a>],
        peers: &Peers,
        numbers: &mut RuleNumbers,
    ) -> Vec<Resolved<'a>> {
        self.update(rules, peers);
        let before = std::mem::take(&mut self.objects);
        let mut out = Vec::with_capacity(rules.len());
        for sourced in rules {
            let key = sourced.object.key();
            let object = self.objects.entry(key.clone()).or_insert_with(|| Object {
                // Only an object that is the same has the same rules at the same places.
                unchanged: before.get(&key).is_some_and(|old| same(&old.object, sourced.object)),
                object: sourced.object.clone(),
                rules: Vec::new(),
            });
            let old = before.get(&key).filter(|_| object.unchanged);
            let peers = self.peers.get(&sourced.rule.peers).cloned().flatten();
            let known = old.and_then(|old| old.rules.get(object.rules.len()));
            let (rule_numbers, stamp) = match known.filter(|known| same_set(&known.peers, &peers)) {
                Some(known) => (known.numbers.clone(), known.stamp),
                None => {
                    self.stamps += 1;
                    (number(sourced, numbers), self.stamps)
                }
            };
            numbers.keep(&rule_numbers);
            object.rules.push(KnownRule { peers: peers.clone(), numbers: rule_numbers.clone(), stamp });
            out.push(Resolved { rule: sourced.rule, peers, numbers: rule_numbers, stamp });
        }
        out
    }

    /// Changes whenever some peer's named ports do.
    pub(super) fn ports_stamp(&self) -> u64 {
        self.ports_stamp
    }

    /// Brings the sets of identities up to date.
    fn update(&mut self, rules: &[Sourced<'_>], peers: &Peers) {
        let changed: Vec<u32> = {
            let new = peers.table.iter().filter(|(n, info)| self.table.get(n) != Some(info));
            let gone = self.table.keys().filter(|n| !peers.table.contains_key(n));
            new.map(|(n, _)| *n).chain(gone.copied()).collect()
        };
        let ports = |table: &BTreeMap<u32, PeerInfo>, n| table.get(n).map(|i| i.named_ports.clone());
        if self.ports_stamp == 0 || changed.iter().any(|n| ports(&self.table, n) != ports(&peers.table, n)) {
            self.stamps += 1;
            self.ports_stamp = self.stamps;
        }
        let mut now = HashMap::new();
        for sourced in rules {
            let asked = &sourced.rule.peers;
            if now.contains_key(asked) {
                continue;
            }
            let set = match self.peers.remove(asked) {
                Some(Some(set)) => Some(revise(set, asked, &changed, peers)),
                Some(None) => None,
                None => peers.resolve(asked).map(Arc::new),
            };
            now.insert(asked.clone(), set);
        }
        self.peers = now;
        self.table.clone_from(&peers.table);
    }
}

/// A set brought up to date for the identities that changed; the same `Arc` if it stays as it was.
fn revise(
    set: Arc<BTreeSet<u32>>,
    asked: &model::Peers,
    changed: &[u32],
    peers: &Peers,
) -> Arc<BTreeSet<u32>> {
    let is_meant = |n: &u32| peers.table.get(n).is_some_and(|info| info.is_any_of(asked));
    let differs = |n: &&u32| set.contains(n) != is_meant(n);
    let differing: Vec<u32> = changed.iter().filter(differs).copied().collect();
    if differing.is_empty() {
        return set;
    }
    let mut next = (*set).clone();
    for number in differing {
        if !next.remove(&number) {
            next.insert(number);
        }
    }
    Arc::new(next)
}

fn number(sourced: &Sourced<'_>, numbers: &mut RuleNumbers) -> Vec<u32> {
    let paths: Vec<&String> = match &sourced.rule.ports {
        Some(ports) => ports.iter().map(|p| &p.path).collect(),
        None => vec![&sourced.rule.path],
    };
    let number = |path: &String| {
        numbers.number(RuleRef {
            kind: sourced.object.kind.clone(),
            namespace: sourced.object.namespace.clone(),
            name: sourced.object.name.clone(),
            path: path.clone(),
        })
    };
    paths.into_iter().map(number).collect()
}

fn same(a: &Arc<PolicyObject>, b: &Arc<PolicyObject>) -> bool {
    Arc::ptr_eq(a, b) || a.rules == b.rules
}

fn same_set(a: &Option<Arc<BTreeSet<u32>>>, b: &Option<Arc<BTreeSet<u32>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}
