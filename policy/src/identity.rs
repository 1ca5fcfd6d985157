//! Security identities: a canonical label set has one number, and a number one label set.
//!
//! Numbers of label sets come from a hash with open addressing, so that nodes which never spoke to each
//! other agree without a lock ([`Identities`]); CIDRs and blocks have node-local numbers ([`LocalIdentities`]).

mod labels;
mod local;
mod reserved;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use abi::{IDENTITY_FIRST, IDENTITY_LAST};
use serde::{Deserialize, Serialize};

use crate::snapshot::Labels;

pub use labels::{DEFAULT_CLUSTER, pod_labels};
pub use local::LocalIdentities;
pub(crate) use reserved::{labels as reserved_labels, numbers as reserved_numbers};
pub use reserved::{name as reserved_name, named as reserved_number};

/// Which number every label set has. Serialisable: a node keeps it, so that numbers survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    slots: BTreeMap<u32, Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Slot {
    Used(Labels),
    /// Freed. A search passes over it: what it once pushed on must stay where it is. The number is not
    /// given to another label set before [`Identities::forget`] says that nobody remembers it.
    Tombstone(Labels),
}

/// All numbers are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {} identities are in use", IDENTITY_LAST - IDENTITY_FIRST + 1)]
pub struct NoIdentityLeft;

impl Identities {
    /// The number of a label set, a new one if it has none. The first number tried is
    /// `256 + FNV-1a-64(k1 NUL v1 NUL k2 ...) mod (2^24 - 256)`, then the next ones.
    ///
    /// # Errors
    /// All numbers are in use.
    pub fn assign(&mut self, labels: &Labels) -> Result<u32, NoIdentityLeft> {
        let mut free = None;
        for number in probe(labels) {
            match self.slots.get(&number) {
                Some(Slot::Used(other)) if other == labels => return Ok(number),
                // Freed and wanted again before anyone forgot it: the number means the same.
                Some(Slot::Tombstone(other)) if other == labels => {
                    free = Some(number);
                    break;
                }
                Some(_) => {}
                None => {
                    free.get_or_insert(number);
                    break;
                }
            }
        }
        let number = free.ok_or(NoIdentityLeft)?;
        self.slots.insert(number, Slot::Used(labels.clone()));
        Ok(number)
    }

    /// The labels behind a number in use.
    pub fn labels(&self, number: u32) -> Option<&Labels> {
        match self.slots.get(&number) {
            Some(Slot::Used(labels)) => Some(labels),
            _ => None,
        }
    }

    /// Every number in use with its labels.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Labels)> {
        self.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Used(labels) => Some((*number, labels)),
            Slot::Tombstone(_) => None,
        })
    }

    /// Nobody has this identity any more. Its number stays taken until it is forgotten.
    pub fn release(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(&number)
            && let Slot::Used(labels) = slot
        {
            *slot = Slot::Tombstone(std::mem::take(labels));
        }
    }

    /// Released numbers that are not forgotten, ascending.
    pub fn released(&self) -> impl Iterator<Item = u32> {
        let tombstones = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Tombstone(_)));
        tombstones.map(|(number, _)| *number)
    }

    /// No map, connection or node remembers this released number: it may be given away. Numbers that were
    /// pushed on past it keep it as a tombstone, until they are gone themselves.
    pub fn forget(&mut self, number: u32) {
        let next = if number == IDENTITY_LAST { IDENTITY_FIRST } else { number + 1 };
        if matches!(self.slots.get(&number), Some(Slot::Tombstone(_))) && !self.slots.contains_key(&next) {
            self.slots.remove(&number);
        }
    }
}

/// The numbers at which a label set may be found, in the order of search.
fn probe(labels: &Labels) -> impl Iterator<Item = u32> {
    let space = IDENTITY_LAST - IDENTITY_FIRST + 1;
    let start = (hash(labels) % u64::from(space)) as u32;
    (0..space).map(move |i| IDENTITY_FIRST + (start + i) % space)
}

fn hash(labels: &Labels) -> u64 {
    let mut hash = Fnv::default();
    for (key, value) in labels {
        hash.write(key.as_bytes());
        hash.write(&[0]);
        hash.write(value.as_bytes());
        hash.write(&[0]);
    }
    hash.0
}

/// FNV-1a, 64 bits. Stable for ever: numbers on disk and on other nodes come from it.
#[derive(Debug)]
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
