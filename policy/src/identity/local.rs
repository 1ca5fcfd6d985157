//! Node-local identities: address blocks that policies name, and pods inside a NetworkPolicy's `ipBlock`.

use std::collections::{BTreeMap, BTreeSet};

use abi::IDENTITY_LOCAL_FIRST;

use super::Fnv;

/// How many numbers there are.
const SPACE: u32 = 1 << 24;

/// Numbers for names. A name keeps its number as long as it is in use, and gets the same one on the next
/// start unless another name is in its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalIdentities {
    numbers: BTreeMap<String, u32>,
    taken: BTreeMap<u32, String>,
}

impl LocalIdentities {
    /// Makes `names` the ones in use: others lose their numbers, new ones get one. Among new names the
    /// order is alphabetical, so the outcome depends on nothing else.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> = self.numbers.keys().filter(|n| !names.contains(*n)).cloned().collect();
        for name in gone {
            if let Some(number) = self.numbers.remove(&name) {
                self.taken.remove(&number);
            }
        }
        for name in names {
            if self.numbers.contains_key(name) {
                continue;
            }
            let mut hash = Fnv::default();
            hash.write(name.as_bytes());
            let start = (hash.0 % u64::from(SPACE)) as u32;
            // Names are bounded by the ipcache's size, far below the number of numbers.
            let free = (0..SPACE)
                .map(|i| IDENTITY_LOCAL_FIRST + (start + i) % SPACE)
                .find(|number| !self.taken.contains_key(number));
            if let Some(number) = free {
                self.taken.insert(number, name.clone());
                self.numbers.insert(name.clone(), number);
            }
        }
    }

    /// The number of a name in use.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}
