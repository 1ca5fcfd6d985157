//! The configuration in force: endpoints with their policies, services, and who has which address.
//!
//! A [`Config`] is immutable and shared by all workers through an atomic pointer; the next one shares
//! every shard with it that did not change, so that a change costs what it touches. Built from
//! [`wire`](crate::wire) messages by [`Config::apply`], which refuses a bad message as a whole.

mod convert;
pub mod ipcache;
pub mod persist;
mod sharded;
pub mod stream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use abi::{PolicyEntry, PolicyKey};
use policy::L7Policy;

pub use convert::ConfigError;
pub use ipcache::{Ipcache, Peer};
use sharded::Sharded;

#[cfg(test)]
mod tests;

/// What all workers serve by.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Policy revision; 0 = nothing was ever received.
    pub revision: u32,
    endpoints: Sharded<u32, Arc<Endpoint>>,
    services: Sharded<SocketAddr, Arc<Service>>,
    pub ipcache: Ipcache,
}

/// A pod of this node.
#[derive(Debug)]
pub struct Endpoint {
    pub id: u32,
    pub identity: u32,
    /// [`abi::decide`] runs on it.
    pub entries: BTreeMap<PolicyKey, PolicyEntry>,
    pub l7: Arc<L7Policy>,
    /// What `l7` was compiled from; equal ones share it.
    l7_source: Arc<Vec<policy::l7::L7RuleSet>>,
}

/// A TCP service port.
#[derive(Debug)]
pub struct Service {
    pub vip: SocketAddr,
    /// Clients stick to a backend by their address.
    pub affinity: bool,
    pub backends: Vec<Backend>,
}

/// A ready backend of a service.
#[derive(Clone, Debug)]
pub struct Backend {
    pub address: SocketAddr,
    /// Requests and connections in flight from this node; outlives changes of the service.
    pub active: Arc<AtomicU32>,
}

impl Endpoint {
    /// The HTTP rules, as they came.
    pub fn rules(&self) -> &[policy::l7::L7RuleSet] {
        &self.l7_source
    }
}

impl Config {
    /// The policy of a pod of this node.
    pub fn endpoint(&self, id: u32) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&id)
    }

    /// The service behind a VIP and port.
    pub fn service(&self, vip: &SocketAddr) -> Option<&Arc<Service>> {
        self.services.get(vip)
    }

    /// Numbers of endpoints, services and prefixes.
    pub fn sizes(&self) -> [usize; 3] {
        [self.endpoints.len(), self.services.len(), self.ipcache.len()]
    }

    /// Every endpoint.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// Every service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

/// Whether revision `a` came after `b`; revisions may wrap around.
pub fn is_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}
