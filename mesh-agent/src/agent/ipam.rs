//! Addresses for pods, of this node alone (host-scope): one of each family that a pod CIDR exists for.
//!
//! Goes round instead of taking the lowest free one, so that an address rests before its next pod: old
//! connections and other people's caches die first. Pure; `endpoints` keeps it on disk.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses at the start of each CIDR that no pod gets: the network's own and the first one, which
/// router or bridge set-ups claim.
const RESERVED_FIRST: u128 = 2;
/// Addresses at the end of an IPv4 CIDR that no pod gets: the broadcast address.
const RESERVED_LAST_V4: u128 = 1;

/// The pod CIDRs of a node and what is taken of them.
#[derive(Debug)]
pub struct Ipam {
    pools: Vec<Pool>,
    used: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Pool {
    net: IpNet,
    /// Offset from the network address that is tried next.
    next: u128,
}

/// Where allocation goes on in a CIDR; kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub net: IpNet,
    pub last: IpAddr,
}

/// Why there is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("no pod CIDR: give one in the Node manifest (spec.podCIDRs) or by --pod-cidr")]
    NoPool,
    #[error("pod CIDR {0} has no room for a pod: use a shorter prefix")]
    TooSmall(IpNet),
    #[error(
        "all {used} addresses of pod CIDR {net} are taken: release pods, or add a CIDR to the Node manifest"
    )]
    Exhausted { net: IpNet, used: usize },
}

impl Pool {
    fn base(&self) -> u128 {
        to_number(self.net.network())
    }

    /// First and last offset for pods.
    fn range(&self) -> Option<(u128, u128)> {
        let host_bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        let last = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
        let last = if self.net.addr().is_ipv4() { last.checked_sub(RESERVED_LAST_V4)? } else { last };
        (last >= RESERVED_FIRST).then_some((RESERVED_FIRST, last))
    }

    /// The next free address, going round at most once.
    fn find(&mut self, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let (first, last) = self.range()?;
        let mut offset = if (first..=last).contains(&self.next) { self.next } else { first };
        // One more try than addresses are taken finds a free one if there is any.
        for _ in 0..=used.len() {
            let address = from_number(self.base() + offset, self.net.addr().is_ipv4());
            offset = if offset == last { first } else { offset + 1 };
            if !used.contains(&address) {
                self.next = offset;
                return Some(address);
            }
        }
        None
    }
}

impl Ipam {
    /// Takes over the CIDRs of a node; `cursors` say where allocation had come to.
    pub fn new(pod_cidrs: &[IpNet], cursors: &[Cursor]) -> Result<Self, IpamError> {
        if pod_cidrs.is_empty() {
            return Err(IpamError::NoPool);
        }
        let pools = pod_cidrs.iter().map(|net| {
            let mut pool = Pool { net: net.trunc(), next: RESERVED_FIRST };
            if pool.range().is_none() {
                return Err(IpamError::TooSmall(*net));
            }
            let cursor = cursors.iter().find(|c| c.net == pool.net && pool.net.contains(&c.last));
            if let Some(cursor) = cursor {
                pool.next = to_number(cursor.last) - pool.base() + 1;
            }
            Ok(pool)
        });
        Ok(Self { pools: pools.collect::<Result<_, _>>()?, used: BTreeSet::new() })
    }

    /// Marks an address as taken, from whatever CIDR (a pod that was there before the CIDRs changed).
    pub fn adopt(&mut self, address: IpAddr) {
        self.used.insert(address);
    }

    /// One address of each family, IPv4 first. Takes all or none.
    pub fn allocate(&mut self) -> Result<Vec<IpAddr>, IpamError> {
        let mut taken = Vec::new();
        for v4 in [true, false] {
            let mut pools = self.pools.iter_mut().filter(|pool| pool.net.addr().is_ipv4() == v4).peekable();
            let Some(net) = pools.peek().map(|pool| pool.net) else { continue };
            match pools.find_map(|pool| pool.find(&self.used)) {
                Some(address) => taken.push(address),
                None => {
                    let used = self.used.iter().filter(|address| net.contains(*address)).count();
                    return Err(IpamError::Exhausted { net, used });
                }
            }
        }
        self.used.extend(&taken);
        Ok(taken)
    }

    /// Gives an address back. One that was not taken is no error.
    pub fn release(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }

    /// Where allocation goes on.
    pub fn cursors(&self) -> Vec<Cursor> {
        let cursor = |pool: &Pool| {
            let last = pool.base() + pool.next.saturating_sub(1);
            Cursor { net: pool.net, last: from_number(last, pool.net.addr().is_ipv4()) }
        };
        self.pools.iter().map(cursor).collect()
    }
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_number(number: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::from_bits(number as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(number)) }
}

#[cfg(test)]
mod tests;
