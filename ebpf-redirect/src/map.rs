//! A map of the kernel with keys and values of known types, by descriptor.
//!
//! aya's map types want the map's definition from the object or read-write pins; this one is opened from
//! a pin with just the permission it needs (the proxy is not root) and moves entries in batches.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::Pod;
use nix::libc;

use crate::sys::{self, Access, Command};

/// `BPF_MAP_TYPE_LPM_TRIE`
const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`: an LPM trie allocates its nodes as they come, and must say so.
const NO_PREALLOC: u32 = 1;
/// `ENOTSUPP` of the kernel, which is no errno of the C library: a map type without batches.
const ENOTSUPP: i32 = 524;

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    /// Or where the next key goes.
    value: u64,
    flags: u64,
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// A map of the kernel from `K` to `V`. For a per-CPU map `V` is the value of one CPU.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    fd: OwnedFd,
    max_entries: u32,
    _types: PhantomData<fn(K) -> V>,
}

/// Where a walk through a hash map goes on: its next bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor(Option<u32>);

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens a pinned map.
    ///
    /// # Errors
    /// `InvalidData` if its keys or values have another size than `K` and `V`.
    pub(crate) fn from_pin(path: &Path, access: Access) -> io::Result<Self> {
        Self::from_fd(sys::obj_get(path, access)?)
    }

    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let info = sys::map_info(fd.as_fd())?;
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        if (info.key_size, info.value_size) != (key, value) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "keys of {} and values of {} bytes where {key} and {value} were expected",
                    info.key_size, info.value_size
                ),
            ));
        }
        Ok(Self { fd, max_entries: info.max_entries, _types: PhantomData })
    }

    /// The map with this id (needs CAP_SYS_ADMIN).
    pub(crate) fn from_id(id: u32) -> io::Result<Self> {
        let mut attr = [id, 0, 0];
        // SAFETY: {map_id, next_id, open_flags}; no pointers.
        Self::from_fd(unsafe { sys::bpf_fd(Command::MapFdById, &mut attr)? })
    }

    /// A new longest-prefix-match trie; `K` begins with its prefix length.
    pub(crate) fn new_trie(max_entries: u32) -> io::Result<Self> {
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        let mut attr = [LPM_TRIE, key, value, max_entries, NO_PREALLOC];
        // SAFETY: {map_type, key_size, value_size, max_entries, map_flags}; no pointers.
        let fd = unsafe { sys::bpf_fd(Command::MapCreate, &mut attr)? };
        Ok(Self { fd, max_entries, _types: PhantomData })
    }

    /// Most entries that the map can hold.
    pub(crate) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    fn raw(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }

    fn element(&self, key: *const K, value: u64) -> ElementAttr {
        ElementAttr { map_fd: self.raw(), _pad: 0, key: key as u64, value, flags: 0 }
    }

    /// The value of `key`. Not for per-CPU maps.
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = std::mem::MaybeUninit::<V>::uninit();
        let mut attr = self.element(key, value.as_mut_ptr() as u64);
        // SAFETY: from_fd saw that the kernel reads size_of::<K>() and writes size_of::<V>() bytes.
        let found = found(unsafe { sys::bpf(Command::MapLookup, &mut attr) })?;
        // SAFETY: the kernel filled it, and V: Pod has no invalid bytes.
        Ok(found.then(|| unsafe { value.assume_init() }))
    }

    /// The values of `key` of every possible CPU, from a per-CPU map. `V` must be 8 bytes long: the
    /// kernel's stride.
    pub(crate) fn get_per_cpu(&self, key: &K, cpus: usize) -> io::Result<Vec<V>> {
        debug_assert_eq!(size_of::<V>(), 8);
        let mut values = Vec::<V>::with_capacity(cpus);
        let mut attr = self.element(key, values.as_mut_ptr() as u64);
        // SAFETY: the kernel writes 8 bytes for each possible CPU, and `cpus` is their number.
        if found(unsafe { sys::bpf(Command::MapLookup, &mut attr) })? {
            // SAFETY: all of them were written.
            unsafe { values.set_len(cpus) };
        }
        Ok(values)
    }

    /// Sets the value of `key`.
    pub(crate) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.element(key, std::ptr::from_ref(value) as u64);
        // SAFETY: the kernel reads size_of::<K>() and size_of::<V>() bytes (seen by from_fd).
        unsafe { sys::bpf(Command::MapUpdate, &mut attr) }.map(drop)
    }

    /// Removes `key`; false if it was not there.
    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.element(key, 0);
        // SAFETY: the kernel reads size_of::<K>() bytes (seen by from_fd).
        found(unsafe { sys::bpf(Command::MapDelete, &mut attr) })
    }

    /// The key behind `key` in the map's own order, or its first.
    fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = std::mem::MaybeUninit::<K>::uninit();
        let key = key.map_or(std::ptr::null(), std::ptr::from_ref);
        let mut attr = self.element(key, next.as_mut_ptr() as u64);
        // SAFETY: the kernel reads and writes size_of::<K>() bytes (seen by from_fd); null = the first.
        let found = found(unsafe { sys::bpf(Command::MapNextKey, &mut attr) })?;
        // SAFETY: the kernel filled it, and K: Pod has no invalid bytes.
        Ok(found.then(|| unsafe { next.assume_init() }))
    }

    /// Every key. Only for maps that nobody changes meanwhile.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys = Vec::new();
        let mut last = None;
        while let Some(key) = self.next_key(last.as_ref())? {
            // A walk through a map that others change may start over; this bounds it.
            if keys.len() > self.max_entries as usize {
                return Err(io::Error::other("the map changed while it was read"));
            }
            keys.push(key);
            last = Some(key);
        }
        Ok(keys)
    }

    /// Every entry, as `C`. Only for maps that nobody changes meanwhile.
    pub(crate) fn entries<C: FromIterator<(K, V)>>(&self) -> io::Result<C> {
        let entry = |key: K| self.get(&key).map(|value| value.map(|value| (key, value)));
        self.keys()?.into_iter().filter_map(|key| entry(key).transpose()).collect()
    }

    /// Sets many entries, in one system call where the map's type allows it.
    pub(crate) fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len());
        if keys.is_empty() {
            return Ok(());
        }
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: self.raw(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys and values of the sizes seen by from_fd.
        match unsafe { sys::bpf(Command::MapUpdateBatch, &mut attr) } {
            Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP)) => {
                keys.iter().zip(values).try_for_each(|(key, value)| self.put(key, value))
            }
            other => other.map(drop),
        }
    }

    /// The next entries (up to `limit`) of a walk through a hash map that programs change meanwhile, and
    /// where it goes on; an empty cursor begins, and comes back when the walk is done.
    pub(crate) fn batch(&self, cursor: Cursor, limit: usize) -> io::Result<(Vec<(K, V)>, Cursor)> {
        let mut keys = Vec::<K>::with_capacity(limit);
        let mut values = Vec::<V>::with_capacity(limit);
        let (from, mut to) = (cursor.0.unwrap_or_default(), 0_u32);
        let mut attr = BatchAttr {
            in_batch: if cursor.0.is_some() { std::ptr::from_ref(&from) as u64 } else { 0 },
            out_batch: std::ptr::from_mut(&mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: limit as u32,
            map_fd: self.raw(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: room for `limit` keys and values of the sizes seen by from_fd; a hash map's cursor is
        // the u32 number of a bucket.
        let result = unsafe { sys::bpf(Command::MapLookupBatch, &mut attr) };
        let next = match result {
            Ok(_) => Cursor(Some(to)),
            // The last batch: `count` entries were filled all the same.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Cursor::default(),
            Err(error) => return Err(error),
        };
        let count = (attr.count as usize).min(limit);
        // SAFETY: the kernel filled `count` of each.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        Ok((keys.into_iter().zip(values).collect(), next))
    }
}

impl Cursor {
    /// Whether a walk with this cursor is at its beginning (or just ended).
    pub(crate) fn is_start(self) -> bool {
        self.0.is_none()
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Turns ENOENT into `false`.
fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A value from its bytes; `None` if there are not exactly as many as it has.
pub(crate) fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as many bytes as a T has, read without regard to alignment; T: Pod has no invalid bytes.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
