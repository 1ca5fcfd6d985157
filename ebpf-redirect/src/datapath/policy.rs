//! The policy of each endpoint: an inner map of its own, built aside and then put in place of the old one,
//! so that a packet meets either the whole old policy or the whole new one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

use abi::{MAX_POLICY_ENTRIES, PolicyEntry, PolicyKey};

use super::Datapath;
use crate::error::MapError;
use crate::map::Table;
use crate::object::POLICY;

type Content = BTreeMap<PolicyKey, PolicyEntry>;

impl Datapath {
    /// Puts an endpoint's policy in force; false if the kernel has exactly this one already.
    ///
    /// For many endpoints at once [`set_policies`](Self::set_policies) is faster: the kernel waits for running
    /// programs once instead of once for each.
    ///
    /// # Errors
    /// As for [`set_policies`](Self::set_policies).
    pub fn set_policy(&mut self, endpoint: u32, entries: &Content) -> Result<bool, MapError> {
        Ok(self.set_policies([(endpoint, entries)])? == 1)
    }

    /// Puts the policies of several endpoints in force, each atomically; returns how many differed from what
    /// the kernel had. When it returns, no program uses an old policy any more.
    ///
    /// # Errors
    /// [`MapError::Full`] if one has more than [`MAX_POLICY_ENTRIES`] entries (nothing is changed then, and the
    /// agent has to compile a policy that denies), and what the kernel refuses.
    pub fn set_policies<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = (u32, &'a Content)>,
    ) -> Result<usize, MapError> {
        let mut ids = Vec::new();
        let mut contents = Vec::new();
        let mut fresh: Vec<Table<PolicyKey, PolicyEntry>> = Vec::new();
        for (endpoint, content) in wanted {
            if content.len() > MAX_POLICY_ENTRIES as usize {
                let limit = MAX_POLICY_ENTRIES as usize;
                return Err(MapError::Full { map: POLICY, wanted: content.len(), limit });
            }
            if !self.has_policy(endpoint, content) {
                fresh.push(build(content)?);
                ids.push(endpoint);
                contents.push(content);
            }
        }
        let descriptors: Vec<u32> = fresh.iter().map(|map| map.as_fd().as_raw_fd().cast_unsigned()).collect();
        for id in &ids {
            self.known.policy.remove(id);
        }
        self.policy.put_all(&ids, &descriptors).map_err(|error| match error.raw_os_error() {
            Some(nix::libc::E2BIG) => {
                MapError::Full { map: POLICY, wanted: ids.len(), limit: self.policy.max_entries() as usize }
            }
            _ => MapError::io(POLICY, "put policies in force")(error),
        })?;
        for (id, content) in ids.iter().zip(contents) {
            self.known.policy.insert(*id, content.clone());
        }
        Ok(ids.len())
    }

    /// Removes an endpoint's policy: from then on everything from and to it is dropped.
    pub fn remove_policy(&mut self, endpoint: u32) -> Result<(), MapError> {
        self.known.policy.remove(&endpoint);
        self.policy.remove(&endpoint).map(drop).map_err(MapError::io(POLICY, "remove a policy"))
    }

    /// Removes the policies of all endpoints but these; for an agent that comes back and finds policies of
    /// endpoints that went meanwhile. Returns how many there were.
    pub fn retain_policies(&mut self, endpoints: &BTreeSet<u32>) -> Result<usize, MapError> {
        let there = self.policy.keys().map_err(MapError::io(POLICY, "list the policies"))?;
        let stale: Vec<u32> = there.into_iter().filter(|id| !endpoints.contains(id)).collect();
        stale.iter().try_for_each(|id| self.remove_policy(*id))?;
        Ok(stale.len())
    }

    /// The policy of an endpoint as the kernel has it.
    pub fn policy(&self, endpoint: u32) -> Result<Option<Content>, MapError> {
        let read = || match self.policy.get(&endpoint)? {
            Some(id) => Table::<PolicyKey, PolicyEntry>::from_id(id)?.entries().map(Some),
            None => Ok(None),
        };
        read().map_err(MapError::io(POLICY, "read a policy"))
    }

    /// Compares with what is known, or (after a restart) with what the kernel has.
    fn has_policy(&mut self, endpoint: u32, wanted: &Content) -> bool {
        if let Some(known) = self.known.policy.get(&endpoint) {
            return known == wanted;
        }
        match self.policy(endpoint) {
            Ok(Some(content)) => {
                let same = content == *wanted;
                self.known.policy.insert(endpoint, content);
                same
            }
            Ok(None) => false,
            Err(error) => {
                // Not to know costs one needless swap.
                tracing::debug!(endpoint, %error, "cannot read back a policy");
                false
            }
        }
    }
}

fn build(content: &Content) -> Result<Table<PolicyKey, PolicyEntry>, MapError> {
    let build = || {
        let map = Table::new_trie(MAX_POLICY_ENTRIES)?;
        let keys: Vec<PolicyKey> = content.keys().copied().collect();
        let values: Vec<PolicyEntry> = content.values().copied().collect();
        map.put_all(&keys, &values)?;
        Ok(map)
    };
    build().map_err(MapError::io(POLICY, "build a policy"))
}
