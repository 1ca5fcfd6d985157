//! A compiled policy as the kernel's maps hold it. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::{BackendEntry, EndpointEntry, IpcacheEntry, IpcacheKey, ServiceEntry, ServiceKey, service_flags};
use ipnet::IpNet;
use policy::{CompiledPolicy, EndpointPolicy, Snapshot};

/// Everything that the kernel must hold, at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelState {
    pub revision: u32,
    /// By endpoint id.
    pub policies: BTreeMap<u32, Arc<EndpointPolicy>>,
    pub ipcache: BTreeMap<IpcacheKey, IpcacheEntry>,
    pub services: BTreeMap<ServiceKey, (ServiceEntry, Vec<BackendEntry>)>,
    /// By the index of the veth.
    pub endpoints: BTreeMap<u32, EndpointEntry>,
}

/// The link of an attached pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index of the host's end of the veth.
    pub ifindex: u32,
    /// Hardware address of the pod's end; zero if it is not known.
    pub mac: [u8; 6],
    /// Of the pod's network namespace; 0 if it is not known.
    pub netns_cookie: u64,
}

impl KernelState {
    /// What the kernel must hold of `compiled`. `veths`: links by endpoint id, of the pods that the CNI
    /// plugin attached.
    pub fn new(
        snapshot: &Snapshot,
        compiled: &CompiledPolicy,
        veths: &BTreeMap<u32, Link>,
        numbers: &mut ServiceNumbers,
    ) -> Self {
        let attached = snapshot.endpoints.values().filter_map(|pod| {
            let link = veths.get(&pod.id).filter(|_| compiled.endpoints.contains_key(&pod.id))?;
            Some((link.ifindex, endpoint_entry(pod, link, compiled)))
        });
        Self {
            revision: compiled.revision,
            policies: compiled.endpoints.clone(),
            ipcache: compiled.ipcache.iter().map(|(net, target)| ipcache_entry(*net, target)).collect(),
            services: services(compiled, numbers),
            endpoints: attached.collect(),
        }
    }

    /// Whether the two are the same but for their revision.
    pub fn equivalent(&self, other: &Self) -> bool {
        self.policies == other.policies
            && self.ipcache == other.ipcache
            && self.services == other.services
            && self.endpoints == other.endpoints
    }
}

/// Numbers of service ports: first half of the keys of their backends. A number is the hash of what it
/// stands for, so that it is the same after a restart and no connect meets another service's backends
/// while the maps are brought up to date.
#[derive(Debug, Default)]
pub struct ServiceNumbers {
    by_key: HashMap<ServiceKey, u32>,
    taken: HashMap<u32, ServiceKey>,
}

impl ServiceNumbers {
    fn number(&mut self, key: ServiceKey) -> u32 {
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let mut bytes = key.addr.octets().to_vec();
        bytes.extend_from_slice(&key.port.to_ne_bytes());
        bytes.push(key.proto);
        let hash = bytes.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let mut number = hash.max(1);
        while self.taken.contains_key(&number) {
            number = number.checked_add(1).unwrap_or(1);
        }
        self.taken.insert(number, key);
        self.by_key.insert(key, number);
        number
    }

    fn retain(&mut self, keep: impl Fn(&ServiceKey) -> bool) {
        self.by_key.retain(|key, _| keep(key));
        self.taken.retain(|_, key| keep(key));
    }
}

fn services(
    compiled: &CompiledPolicy,
    numbers: &mut ServiceNumbers,
) -> BTreeMap<ServiceKey, (ServiceEntry, Vec<BackendEntry>)> {
    let key = |vip: SocketAddr, proto| ServiceKey {
        addr: addr(vip.ip()),
        port: vip.port().to_be(),
        proto,
        _pad: 0,
    };
    let services: BTreeMap<_, _> =
        compiled.services.iter().map(|service| (key(service.vip, service.proto), service)).collect();
    numbers.retain(|key| services.contains_key(key));
    let entries = services.into_iter().map(|(key, service)| {
        let backend =
            |to: &SocketAddr| BackendEntry { addr: addr(to.ip()), port: to.port().to_be(), _pad: 0 };
        let entry = ServiceEntry {
            id: numbers.number(key),
            count: service.backends.len() as u32,
            flags: if service.keep_vip { service_flags::KEEP_VIP } else { 0 },
            affinity_seconds: service.affinity_seconds,
        };
        (key, (entry, service.backends.iter().map(backend).collect()))
    });
    entries.collect()
}

/// What a pod sends is judged by the same identity as what is sent to it: that of its address.
fn endpoint_entry(pod: &policy::snapshot::Endpoint, link: &Link, compiled: &CompiledPolicy) -> EndpointEntry {
    let family = |v4: bool| pod.addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
    let identity = |address: Option<IpAddr>| {
        let found = address.and_then(|address| compiled.lookup(address));
        // Another has the address (the node itself, say): that must not be what the pod speaks as.
        found.filter(|target| target.endpoint == pod.id).map_or(pod.identity, |target| target.identity)
    };
    let (v4, v6) = (family(true), family(false));
    EndpointEntry {
        id: pod.id,
        identity_v4: identity(v4),
        identity_v6: identity(v6),
        ipv4: v4.map(addr).unwrap_or_default(),
        ipv6: v6.map(addr).unwrap_or_default(),
        netns_cookie: link.netns_cookie,
        mac: link.mac,
        _pad: [0; 6],
    }
}

fn ipcache_entry(net: IpNet, target: &policy::IpcacheTarget) -> (IpcacheKey, IpcacheEntry) {
    let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
    let key = IpcacheKey { prefix_len: mapped + u32::from(net.prefix_len()), addr: addr(net.network()) };
    let entry =
        IpcacheEntry { identity: target.identity, endpoint: target.endpoint, flags: target.flags, node: 0 };
    (key, entry)
}

/// An address as the maps hold it.
pub fn addr(ip: IpAddr) -> abi::Addr {
    match ip {
        IpAddr::V4(v4) => abi::Addr::v4(v4.octets()),
        IpAddr::V6(v6) => abi::Addr::v6(v6.octets()),
    }
}

#[cfg(test)]
mod tests;
