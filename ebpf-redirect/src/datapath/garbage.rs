//! Removing connections that are dead: the programs ignore them, but they take up room.

use abi::ConnEntry;

use super::Datapath;
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
    /// Live connections that the walk has met so far, and those of the last complete one.
    counted: u64,
    live: u64,
}

impl Walk {
    pub(super) fn live(&self) -> u64 {
        self.live
    }
}

impl Datapath {
    /// Removes dead connections, a bounded number of them for each call, and (when a walk ends) the pins of
    /// devices that are gone. To be called every few seconds.
    pub fn collect_garbage(&mut self) -> Result<GcReport, AttachError> {
        let mut report = GcReport::default();
        let now = sys::monotonic_ns();
        for _ in 0..BATCHES_MAX {
            let (entries, next) = self
                .connections
                .batch(self.gc.cursor, BATCH)
                .map_err(MapError::io(CONNECTIONS, "list the connections"))?;
            report.examined += entries.len();
            for (key, entry) in entries {
                if !is_dead(&entry, now) {
                    self.gc.counted += 1;
                } else if self.remove_if_dead(&key, now)? {
                    report.removed += 1;
                }
            }
            self.gc.cursor = next;
            if next.is_start() {
                report.complete = true;
                self.gc.live = std::mem::take(&mut self.gc.counted);
                report.stale_links = self.remove_stale()?;
                break;
            }
        }
        Ok(report)
    }

    fn remove_if_dead(&self, key: &abi::ConnKey, now: u64) -> Result<bool, MapError> {
        let look_again = self.connections.get(key).map_err(MapError::io(CONNECTIONS, "read a connection"))?;
        if !look_again.is_some_and(|entry| is_dead(&entry, now)) {
            return Ok(false);
        }
        self.connections.remove(key).map_err(MapError::io(CONNECTIONS, "remove a connection"))
    }
}

fn is_dead(entry: &ConnEntry, now: u64) -> bool {
    entry.expires_ns.saturating_add(GRACE_NS) < now
}
