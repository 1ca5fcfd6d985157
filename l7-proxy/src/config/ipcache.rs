//! From an address to the identity behind it: the same longest-prefix match as the kernel's map.

use std::net::IpAddr;

use ipnet::IpNet;

use super::sharded::Sharded;

/// What an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: u32,
    /// Endpoint id if it is a pod of this node, otherwise 0.
    pub endpoint: u32,
    /// [`abi::ipcache_flags`].
    pub flags: u32,
}

/// Prefixes of both families; IPv4 is kept in its IPv4-mapped form.
#[derive(Clone, Debug)]
pub struct Ipcache {
    prefixes: Sharded<(u8, u128), Peer>,
    /// How many prefixes of each length there are, so that a lookup probes only lengths in use.
    lengths: [u32; 129],
}

impl Default for Ipcache {
    fn default() -> Self {
        Self { prefixes: Sharded::default(), lengths: [0; 129] }
    }
}

impl Ipcache {
    /// The peer behind `address`: longest prefix wins.
    pub fn lookup(&self, address: IpAddr) -> Option<Peer> {
        let bits = mapped(address);
        (0..=128u8)
            .rev()
            .filter(|&length| self.lengths[usize::from(length)] > 0)
            .find_map(|length| self.prefixes.get(&(length, bits & mask(length))).copied())
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, prefix: IpNet, peer: Peer) {
        let key = key(prefix);
        if self.prefixes.insert(key, peer).is_none() {
            self.lengths[usize::from(key.0)] += 1;
        }
    }

    pub(super) fn remove(&mut self, prefix: IpNet) {
        let key = key(prefix);
        if self.prefixes.remove(&key).is_some() {
            self.lengths[usize::from(key.0)] -= 1;
        }
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) }
}

fn key(prefix: IpNet) -> (u8, u128) {
    let length = match prefix {
        IpNet::V4(v4) => v4.prefix_len() + 96,
        IpNet::V6(v6) => v6.prefix_len(),
    };
    (length, mapped(prefix.addr()) & mask(length))
}
