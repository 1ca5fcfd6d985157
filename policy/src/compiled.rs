//! What the compiler produces: one result for kernel and proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::{PolicyEntry, PolicyKey};
use ipnet::IpNet;

use crate::l7::L7RuleSet;
use crate::snapshot::Labels;

/// Everything the datapath needs, at one revision.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    pub revision: u32,
    /// Every identity in use with its labels (reserved and CIDR identities included).
    pub identities: BTreeMap<u32, Arc<Labels>>,
    /// Longest prefix wins.
    pub ipcache: BTreeMap<IpNet, IpcacheTarget>,
    /// Of this node's endpoints, by endpoint id. Endpoints with equal policies share one.
    pub endpoints: BTreeMap<u32, Arc<EndpointPolicy>>,
    /// By the number that [`PolicyEntry::rule`] and events carry.
    pub rules: BTreeMap<u32, RuleRef>,
    pub services: Vec<CompiledService>,
    /// What people must be told: a policy that does not fit and is replaced by a denial.
    pub alarms: Vec<String>,
}

impl CompiledPolicy {
    /// What an address belongs to: the longest prefix that holds it. A pod's identity may differ by address
    /// (a NetworkPolicy's `ipBlock` can hold one of them and not the other).
    pub fn lookup(&self, address: IpAddr) -> Option<IpcacheTarget> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|bits| {
            let net = IpNet::new(address, bits).ok()?.trunc();
            self.ipcache.get(&net).copied()
        })
    }
}

/// What an address belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpcacheTarget {
    pub identity: u32,
    /// Local endpoint id, or 0.
    pub endpoint: u32,
    /// [`abi::ipcache_flags`].
    pub flags: u32,
}

/// One endpoint's policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPolicy {
    /// The content of its policy map; [`abi::decide`] runs on it.
    pub entries: BTreeMap<PolicyKey, PolicyEntry>,
    /// What the proxy asks once `decide` said Redirect.
    pub l7: Vec<L7RuleSet>,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// `CiliumNetworkPolicy`, ... or `heddle` for built-in ones such as allow-localhost.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Field path, such as `spec.ingress[0].toPorts[1]`.
    pub path: String,
}

/// A service port as kernel and proxy use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledService {
    pub namespace: String,
    pub name: String,
    /// Name of the port, may be empty.
    pub port_name: String,
    pub vip: SocketAddr,
    pub proto: u8,
    /// Some policy may send its traffic through layer 7: pods' TCP connections keep the VIP.
    pub keep_vip: bool,
    pub affinity_seconds: u32,
    /// Ready ones of the VIP's family.
    pub backends: Vec<SocketAddr>,
}
