//! Removing connections that are dead: the programs ignore them, but they take up room, and are counted.

use std::collections::BTreeSet;

use abi::{ConnEntry, account};

use super::Datapath;
use super::accounts::Accounts;
use crate::error::AttachError;
use crate::error::MapError;
use crate::map::Cursor;
use crate::object::CONNECTIONS;
use crate::sys;

/// Entries that one system call reads.
const BATCH: usize = 2048;
/// System calls of one call of [`Datapath::collect_garbage`]: bounds its time (about 20 ms) on a full map.
const BATCHES_MAX: usize = 32;
/// A dead entry is left alone this long, so that one that its connection is just reviving is not removed
/// between our look and our removal.
const GRACE_NS: u64 = 2_000_000_000;

/// What [`Datapath::collect_garbage`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Connections that it looked at.
    pub examined: usize,
    /// Dead ones that it removed.
    pub removed: usize,
    /// Whether the walk came to the end of the map; if not, the next call goes on from there.
    pub complete: bool,
    /// Links whose device is gone, removed together with their endpoint.
    pub stale_links: usize,
}

/// The walk through the connections, which several calls share.
#[derive(Debug, Default)]
pub(super) struct Walk {
    cursor: Cursor,
    /// What each account had opened when the walk began.
    opened: Accounts,
    /// Connections that stay, by account.
    met: Accounts,
}

impl Datapath {
    /// Removes dead connections and those of endpoints that are gone, a bounded number of them for each call,
    /// and (when a walk ends) the pins of devices that are gone. To be called every few seconds, and every
    /// second while the map [fills up](super::ConnectionUse::is_filling) or the walk is not complete.
    pub fn collect_garbage(&mut self) -> Result<GcReport, AttachError> {
        let mut report = GcReport::default();
        if self.gc.cursor.is_start() {
            self.gc.met.clear();
            self.gc.opened = self.opened_by_account()?;
        }
        let endpoints = self.endpoint_ids()?;
        for _ in 0..BATCHES_MAX {
            let now = sys::monotonic_ns();
            let (entries, next) = self
                .connections
                .batch(self.gc.cursor, BATCH)
                .map_err(MapError::io(CONNECTIONS, "list the connections"))?;
            report.examined += entries.len();
            let is_over = |entry: &ConnEntry| is_dead(entry, now) || is_orphan(entry, &endpoints);
            let mut removed = Accounts::new();
            for (key, entry) in entries {
                let count = if !is_over(&entry) || !self.remove_if(&key, is_over)? {
                    *self.gc.met.entry(account::TOTAL).or_default() += 1;
                    self.gc.met.entry(entry.account)
                } else {
                    report.removed += 1;
                    removed.entry(entry.account)
                };
                *count.or_default() += 1;
            }
            self.release(&removed)?;
            self.gc.cursor = next;
            if next.is_start() {
                report.complete = true;
                self.settle(&self.gc.opened, &self.gc.met)?;
                report.stale_links = self.remove_stale()?;
                break;
            }
        }
        Ok(report)
    }

    fn remove_if(&self, key: &abi::ConnKey, is_over: impl Fn(&ConnEntry) -> bool) -> Result<bool, MapError> {
        let look_again = self.connections.get(key).map_err(MapError::io(CONNECTIONS, "read a connection"))?;
        if !look_again.is_some_and(|entry| is_over(&entry)) {
            return Ok(false);
        }
        self.connections.remove(key).map_err(MapError::io(CONNECTIONS, "remove a connection"))
    }
}

/// Whether it is charged to an endpoint that is no longer there. A connection between two pods of this node
/// is charged to the one that opened it.
fn is_orphan(entry: &ConnEntry, endpoints: &BTreeSet<u32>) -> bool {
    account::endpoint(entry.account).is_some_and(|(id, _)| !endpoints.contains(&id))
}

fn is_dead(entry: &ConnEntry, now: u64) -> bool {
    entry.expires_ns.saturating_add(GRACE_NS) < now
}
