//! Who holds how many connections: what the programs reckon with when they let another one in.
//!
//! The programs count what they enter (`OPENED`), this side what it removes (`RELEASED`), and the difference is
//! what an account holds. A walk through the whole map tells within which bounds that must lie.

use std::collections::{BTreeMap, BTreeSet};

use abi::account;

use super::Datapath;
use crate::error::MapError;
use crate::object::{OPENED, RELEASED};

/// How full the map of connections is, and who fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionUse {
    /// Connections that there is room for.
    pub room: u64,
    /// Connections in the map.
    pub total: u64,
    /// Connections that one account may hold as things stand.
    pub allowed: u64,
    /// What each account ([`abi::account`]) holds, if anything.
    pub held: BTreeMap<u32, u64>,
}

impl ConnectionUse {
    /// Whether the map fills up, so that dead connections should be removed without delay.
    pub fn is_filling(&self) -> bool {
        self.total > self.room / 8
    }

    /// Whether most of the map is in use (nine tenths).
    pub fn is_nearly_full(&self) -> bool {
        self.total > self.room - self.room / 10
    }

    /// Endpoints that have reached their limit, or all but a sixteenth of it: whether it is by what they open
    /// themselves, and how many they hold.
    pub fn at_limit(&self) -> impl Iterator<Item = (u32, bool, u64)> + '_ {
        let of_endpoint = |(account, held): (&u32, &u64)| {
            account::endpoint(*account).map(|(endpoint, own)| (endpoint, own, *held))
        };
        let near = |(_, _, held): &(u32, bool, u64)| held + held / 16 >= self.allowed;
        self.held.iter().filter_map(of_endpoint).filter(near)
    }
}

/// Counts by account.
pub(super) type Accounts = BTreeMap<u32, u64>;

impl Datapath {
    /// How full the map of connections is, and who fills it.
    pub fn connection_use(&self) -> Result<ConnectionUse, MapError> {
        let released = self.released_by_account()?;
        let mut held: Accounts = self.opened_by_account()?;
        for (account, count) in &mut held {
            *count = difference(*count, released.get(account).copied().unwrap_or(0));
        }
        // Of an account that was put right before the programs ever counted it.
        for (account, count) in released {
            held.entry(account).or_insert(difference(0, count));
        }
        let total = held.remove(&account::TOTAL).unwrap_or(0);
        held.retain(|_, count| *count != 0);
        let room = self.configuration()?.room();
        Ok(ConnectionUse { room, total, allowed: abi::connections_allowed(room, total), held })
    }

    /// Connections of one account.
    pub(super) fn held(&self, account: u32) -> Result<u64, MapError> {
        let opened = self.opened.get(&account).map_err(MapError::io(OPENED, "read a count"))?;
        let released = self.released.get(&account).map_err(MapError::io(RELEASED, "read a count"))?;
        Ok(difference(opened.unwrap_or(0), released.unwrap_or(0)))
    }

    pub(super) fn opened_by_account(&self) -> Result<Accounts, MapError> {
        self.opened.entries().map_err(MapError::io(OPENED, "list the counts"))
    }

    fn released_by_account(&self) -> Result<Accounts, MapError> {
        self.released.entries().map_err(MapError::io(RELEASED, "list the counts"))
    }

    /// Takes removed connections off their accounts.
    pub(super) fn release(&self, removed: &Accounts) -> Result<(), MapError> {
        let all = removed.values().sum();
        for (account, count) in removed.iter().chain((all != 0).then_some((&account::TOTAL, &all))) {
            let before = self.released.get(account).map_err(MapError::io(RELEASED, "read a count"))?;
            let after = before.unwrap_or(0).wrapping_add(*count);
            self.released.put(account, &after).map_err(MapError::io(RELEASED, "write a count"))?;
        }
        Ok(())
    }

    /// Puts the accounts right after a walk through the whole map: `opened` as it was before, `met` in its
    /// course. An account holds at least what was met, and at most that and what it has opened meanwhile.
    pub(super) fn settle(&self, opened: &Accounts, met: &Accounts) -> Result<(), MapError> {
        let (now, released) = (self.opened_by_account()?, self.released_by_account()?);
        let accounts: BTreeSet<u32> = now.keys().chain(met.keys()).chain(released.keys()).copied().collect();
        let endpoints = self.endpoint_ids()?;
        for account in accounts {
            let count = |accounts: &Accounts| accounts.get(&account).copied().unwrap_or(0);
            let is_gone = account::endpoint(account).is_some_and(|(id, _)| !endpoints.contains(&id));
            if is_gone && count(met) == 0 {
                self.opened.remove(&account).map_err(MapError::io(OPENED, "remove a count"))?;
                self.released.remove(&account).map_err(MapError::io(RELEASED, "remove a count"))?;
                continue;
            }
            let meanwhile = count(&now).wrapping_sub(count(opened));
            let held = difference(count(&now), count(&released));
            let right = held.clamp(count(met), count(met).saturating_add(meanwhile));
            if right != held {
                tracing::debug!(account, held, right, "a count of connections is put right");
                let released = count(&now).wrapping_sub(right);
                self.released.put(&account, &released).map_err(MapError::io(RELEASED, "write a count"))?;
            }
        }
        Ok(())
    }

    /// Ids of the endpoints that the programs know.
    pub(super) fn endpoint_ids(&self) -> Result<BTreeSet<u32>, MapError> {
        Ok(self.endpoints()?.into_values().map(|endpoint| endpoint.id).collect())
    }
}

/// What is left of `opened`; 0 if more was taken off, as for a moment it may.
fn difference(opened: u64, released: u64) -> u64 {
    let left = opened.wrapping_sub(released);
    if left > u64::MAX / 2 { 0 } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_gets_a_quarter_and_many_leave_room() {
        let room = 262_144;
        let mut held = vec![0_u64; 40];
        let mut total = 0;
        for greedy in &mut held {
            while *greedy < abi::connections_allowed(room, total) {
                *greedy += 1;
                total += 1;
            }
        }
        assert!(held[0] <= room / 4 && held[0] > room / 5, "{held:?}");
        assert!(held[39] >= 1, "{held:?}");
        assert!(total < room - room / 32, "the node's share is free");
    }

    #[test]
    fn who_is_at_the_limit() {
        let held = BTreeMap::from([
            (account::NODE, 90),
            (account::of(7, true), 25),
            (account::of(7, false), 3),
            (account::of(8, false), 24),
        ]);
        let usage = ConnectionUse { room: 1000, total: 142, allowed: 25, held };
        assert_eq!(usage.at_limit().collect::<Vec<_>>(), [(7, true, 25), (8, false, 24)]);
        assert!(usage.is_filling() && !usage.is_nearly_full());
        assert_eq!((difference(5, 3), difference(3, 5), difference(2, u64::MAX)), (2, 0, 3));
    }
}
