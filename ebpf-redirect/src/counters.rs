//! What the programs have counted.

use std::collections::BTreeMap;
use std::io;

use abi::{Counter, Direction, DropReason};

use crate::error::MapError;
use crate::map::Table;
use crate::object::{COUNTERS, DROPS};

/// Sums over all CPUs, since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets dropped, by reason and by the direction, as seen from the pod, that was at fault; what never
    /// occurred is left out.
    pub drops: BTreeMap<(DropReason, Direction), u64>,
    /// Events that the rate limit or a full ring left out.
    pub events_left_out: u64,
    /// New connections that went their way in the kernel.
    pub new_direct: u64,
    /// New connections given to the proxy.
    pub new_redirected: u64,
    /// Connections and datagrams translated to a backend by the socket hooks.
    pub translated: u64,
    /// Connections in the map now, expired ones that are not yet removed among them.
    pub connections: u64,
}

impl Counters {
    /// Packets dropped for this reason, in either direction.
    pub fn drops_for(&self, reason: DropReason) -> u64 {
        self.drops.iter().filter(|((dropped_for, _), _)| *dropped_for == reason).map(|(_, count)| count).sum()
    }

    pub(crate) fn read(
        drops: &Table<u32, u64>,
        counts: &Table<u32, u64>,
        connections: u64,
    ) -> Result<Self, MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| MapError::Io {
            map: DROPS,
            operation: "count the CPUs for",
            source,
        })?;
        let mut by_reason = BTreeMap::new();
        for reason in DropReason::ALL {
            for direction in [Direction::Ingress, Direction::Egress] {
                let slot = abi::drop_slot(*reason, direction);
                let sum = sum(drops, slot, cpus).map_err(MapError::io(DROPS, "read a counter"))?;
                if sum != 0 {
                    by_reason.insert((*reason, direction), sum);
                }
            }
        }
        let count = |counter: Counter| {
            sum(counts, counter as u32, cpus).map_err(MapError::io(COUNTERS, "read a counter"))
        };
        Ok(Self {
            drops: by_reason,
            events_left_out: count(Counter::EventsLeftOut)?,
            new_direct: count(Counter::NewDirect)?,
            new_redirected: count(Counter::NewRedirected)?,
            translated: count(Counter::Translated)?,
            connections,
        })
    }
}

fn sum(table: &Table<u32, u64>, index: u32, cpus: usize) -> io::Result<u64> {
    Ok(table.get_per_cpu(&index, cpus)?.into_iter().fold(0, u64::wrapping_add))
}
