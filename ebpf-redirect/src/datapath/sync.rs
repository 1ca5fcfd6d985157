//! Bringing `IPCACHE`, `SERVICES` and `BACKENDS` to a wanted state by the smallest set of writes, in an order
//! in which no moment in between lets anything through or sends it elsewhere.

use std::collections::BTreeMap;

use abi::{BackendEntry, BackendKey, IpcacheEntry, IpcacheKey, ServiceEntry, ServiceKey};
use aya::Pod;
use nix::libc;

use super::Datapath;
use crate::error::MapError;
use crate::map::Table;
use crate::object::{BACKENDS, IPCACHE, SERVICES};

/// What one sync wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries added or changed.
    pub written: usize,
    pub removed: usize,
}

impl Datapath {
    /// Makes the kernel's ipcache equal to `wanted`: additions and changes first, removals last, so that an
    /// address that stays known never falls to the identity of a shorter prefix.
    ///
    /// # Errors
    /// [`MapError::Full`] before anything is written, and what the kernel refuses; the next sync then starts
    /// from what the kernel really has.
    pub fn sync_ipcache(&mut self, wanted: &BTreeMap<IpcacheKey, IpcacheEntry>) -> Result<Changes, MapError> {
        room(IPCACHE, &self.ipcache, wanted.len())?;
        let known = take_known(self.known.ipcache.take(), IPCACHE, &self.ipcache)?;
        let written = write(IPCACHE, &self.ipcache, &known, wanted)?;
        let stale = known.keys().filter(|key| !wanted.contains_key(key));
        let removed = remove(IPCACHE, &self.ipcache, stale)?;
        self.known.ipcache = Some(wanted.clone());
        Ok(Changes { written, removed })
    }

    /// Makes the kernel's services equal to `wanted`. A service's count is that of its backends here, whatever
    /// its entry says.
    ///
    /// Order: services whose number now belongs to another one go first (its backends must never be found
    /// under the old address), then backends are written, then the services that count them, and what nobody
    /// counts any more is removed last.
    ///
    /// # Errors
    /// [`MapError::DuplicateService`] and [`MapError::Full`] before anything is written, and what the kernel
    /// refuses; the next sync then starts from what the kernel really has.
    pub fn sync_services(
        &mut self,
        wanted: &BTreeMap<ServiceKey, (ServiceEntry, Vec<BackendEntry>)>,
    ) -> Result<Changes, MapError> {
        let (services, backends, owners) = split(wanted)?;
        room(SERVICES, &self.services, services.len())?;
        room(BACKENDS, &self.backends, backends.len())?;
        let mut known = take_known(self.known.services.take(), SERVICES, &self.services)?;
        let known_backends = take_known(self.known.backends.take(), BACKENDS, &self.backends)?;

        let lost_number = |key: &ServiceKey, entry: &ServiceEntry| {
            owners.get(&entry.id).is_some_and(|owner| *owner != *key)
        };
        let usurped: Vec<ServiceKey> =
            known.iter().filter(|(key, entry)| lost_number(key, entry)).map(|(key, _)| *key).collect();
        let mut changes = Changes { written: 0, removed: remove(SERVICES, &self.services, usurped.iter())? };
        known.retain(|key, _| !usurped.contains(key));

        changes.written += write(BACKENDS, &self.backends, &known_backends, &backends)?;
        changes.written += write(SERVICES, &self.services, &known, &services)?;
        let stale = known.keys().filter(|key| !services.contains_key(key));
        changes.removed += remove(SERVICES, &self.services, stale)?;
        let stale = known_backends.keys().filter(|key| !backends.contains_key(key));
        changes.removed += remove(BACKENDS, &self.backends, stale)?;
        self.known.services = Some(services);
        self.known.backends = Some(backends);
        Ok(changes)
    }
}

type Split =
    (BTreeMap<ServiceKey, ServiceEntry>, BTreeMap<BackendKey, BackendEntry>, BTreeMap<u32, ServiceKey>);

/// The two maps' contents, and which service has which number.
fn split(wanted: &BTreeMap<ServiceKey, (ServiceEntry, Vec<BackendEntry>)>) -> Result<Split, MapError> {
    let (mut services, mut backends, mut owners) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (key, (entry, list)) in wanted {
        if owners.insert(entry.id, *key).is_some() {
            return Err(MapError::DuplicateService { id: entry.id });
        }
        let mut slots = 0..u32::MAX;
        for (backend, slot) in list.iter().zip(&mut slots) {
            backends.insert(BackendKey { service: entry.id, slot }, *backend);
        }
        let count = list.len() as u32;
        services.insert(*key, ServiceEntry { count, ..*entry });
    }
    Ok((services, backends, owners))
}

fn room<K: Pod, V: Pod>(map: &'static str, table: &Table<K, V>, wanted: usize) -> Result<(), MapError> {
    let limit = table.max_entries() as usize;
    if wanted > limit { Err(MapError::Full { map, wanted, limit }) } else { Ok(()) }
}

fn take_known<K: Pod + Ord, V: Pod>(
    known: Option<BTreeMap<K, V>>,
    map: &'static str,
    table: &Table<K, V>,
) -> Result<BTreeMap<K, V>, MapError> {
    known.map_or_else(|| table.entries().map_err(MapError::io(map, "read the entries")), Ok)
}

fn write<K: Pod + Ord, V: Pod + PartialEq>(
    map: &'static str,
    table: &Table<K, V>,
    known: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<usize, MapError> {
    let mut written = 0;
    for (key, value) in wanted.iter().filter(|(key, value)| known.get(key) != Some(value)) {
        table.put(key, value).map_err(|error| match error.raw_os_error() {
            // Old and new entries together can pass the limit for a moment.
            Some(libc::E2BIG | libc::ENOSPC) => {
                MapError::Full { map, wanted: wanted.len(), limit: table.max_entries() as usize }
            }
            _ => MapError::io(map, "write an entry")(error),
        })?;
        written += 1;
    }
    Ok(written)
}

fn remove<'a, K: Pod, V: Pod>(
    map: &'static str,
    table: &Table<K, V>,
    keys: impl Iterator<Item = &'a K>,
) -> Result<usize, MapError> {
    let mut removed = 0;
    for key in keys {
        removed += usize::from(table.remove(key).map_err(MapError::io(map, "remove an entry"))?);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Addr;

    fn key(last: u8) -> ServiceKey {
        ServiceKey { addr: Addr::v4([10, 96, 0, last]), port: 80_u16.to_be(), proto: 6, _pad: 0 }
    }

    #[test]
    fn splits_and_counts() {
        let backend = BackendEntry { addr: Addr::v4([10, 0, 0, 1]), port: 8080_u16.to_be(), _pad: 0 };
        let entry = ServiceEntry { id: 7, count: 99, ..ServiceEntry::default() };
        let wanted = BTreeMap::from([(key(1), (entry, vec![backend, backend]))]);
        let (services, backends, owners) = split(&wanted).unwrap();
        assert_eq!(services[&key(1)].count, 2);
        let slots: Vec<BackendKey> = backends.into_keys().collect();
        assert_eq!(slots, [BackendKey { service: 7, slot: 0 }, BackendKey { service: 7, slot: 1 }]);
        assert_eq!(owners, BTreeMap::from([(7, key(1))]));
    }

    #[test]
    fn one_number_twice_is_refused() {
        let entry = ServiceEntry { id: 7, ..ServiceEntry::default() };
        let wanted = BTreeMap::from([(key(1), (entry, vec![])), (key(2), (entry, vec![]))]);
        assert!(matches!(split(&wanted), Err(MapError::DuplicateService { id: 7 })));
    }
}
