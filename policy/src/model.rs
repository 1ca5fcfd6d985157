//! The rule language as it is compiled: every kind of policy object becomes a list of [`Rule`].
//!
//! Owns reading, checking and naming what is wrong ([`Refusal`]); knows nothing of identities or maps. What
//! the language has and this version does not enforce yet is checked like the rest and then refused, so
//! that nothing is silently open.

mod cidr;
mod cnp;
mod http;
mod icmp;
mod netpol;
mod ports;
mod raw;
mod refusal;
mod selector;
#[cfg(test)]
mod tests;

use abi::Direction;
use ipnet::IpNet;
use serde_json::Value;

pub use refusal::{Refusal, refused_object};
pub(crate) use selector::{
    CLUSTER as CLUSTER_LABEL, NAMESPACE as NAMESPACE_LABEL, NAMESPACE_LABELS as NAMESPACE_LABELS_PREFIX,
};
pub use selector::{Operator, Requirement, Selector, Source};

use crate::l7::HttpRule;
use crate::snapshot::PolicyObject;

/// `kind` of the objects that [`parse`] reads.
pub const KINDS: [&str; 3] = [CNP, CCNP, NETWORK_POLICY];
/// cilium.io/v2, in a namespace.
pub const CNP: &str = "CiliumNetworkPolicy";
/// cilium.io/v2, cluster-wide.
pub const CCNP: &str = "CiliumClusterwideNetworkPolicy";
/// networking.k8s.io/v1.
pub const NETWORK_POLICY: &str = "NetworkPolicy";
/// `kind` in rule names of what is built in, such as allow-localhost.
pub const BUILT_IN: &str = "heddle";

/// One element of `ingress`, `ingressDeny`, `egress` or `egressDeny`, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Field path in the object, such as `spec.ingress[0]`.
    pub path: String,
    /// The endpoints whose policy this is.
    pub subject: Selector,
    pub direction: Direction,
    pub action: Action,
    pub tier: Tier,
    /// Within the tier; the smaller wins.
    pub priority: u16,
    /// Whether endpoints that it selects deny what no rule allows in this direction.
    pub default_deny: bool,
    pub peers: Peers,
    /// `None`: any protocol and port. An empty list: nothing.
    pub ports: Option<Vec<PortRule>>,
}

/// What a rule does with the traffic it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Denies all that other rules allow, but not the node's own traffic: what a refused policy does.
    Refuse,
}

/// Tiers of policies, the strongest last. CiliumNetworkPolicy and NetworkPolicy are `Normal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What is built in and yields to every rule.
    Default = 0,
    Baseline = 1,
    #[default]
    Normal = 2,
    Admin = 3,
}

/// The other side of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    Any,
    /// Any of these; an empty list is nobody.
    Of(Vec<Peer>),
}

/// One way to name peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Labels(Selector),
    Entity(Entity),
    Cidr(CidrPeer),
}

/// A block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrPeer {
    pub cidr: IpNet,
    /// Contained in `cidr`.
    pub except: Vec<IpNet>,
    /// Whether pods with such an address are meant too: `ipBlock` of NetworkPolicy does, CIDRs of Cilium's
    /// policies never match what is in the cluster.
    pub pods: bool,
}

/// Classes of peers without labels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    All,
    World,
    WorldIpv4,
    WorldIpv6,
    Cluster,
    Host,
    RemoteNode,
    KubeApiserver,
    Health,
    Init,
    Ingress,
    Unmanaged,
    None,
}

/// An element of `toPorts` (or of `icmps`).
#[derive(Clone, Debug, PartialEq)]
pub struct PortRule {
    /// Field path in the object.
    pub path: String,
    /// ORed; empty: nothing.
    pub ports: Vec<PortMatch>,
    /// `rules.http`, ORed; `None`: no layer 7 rules, everything passes.
    pub http: Option<Vec<HttpRule>>,
}

/// Protocol and destination port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// IANA protocol number; never "any".
    pub proto: u8,
    pub port: PortSpec,
}

/// A destination port; for ICMP the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    Any,
    /// First and last.
    Range(u16, u16),
    /// A container port's name in lower case; with `endPort` a range (ingress only, as in Cilium).
    Name(String, Option<u16>),
}

/// Reads and checks one policy object. Without a namespace a namespaced kind is in `default`.
///
/// # Errors
/// A [`Refusal`] with the first field that is wrong, or that this version does not enforce yet.
pub fn parse(kind: &str, manifest: &Value) -> Result<PolicyObject, Refusal> {
    let object = refusal::ObjectRef::read(kind, manifest);
    let rules = match kind {
        CNP | CCNP => cnp::parse(&object, manifest),
        NETWORK_POLICY => netpol::parse(&object, manifest),
        _ => Err(refusal::Fault::new("kind", format!("{kind:?} is no kind of policy"))),
    };
    match rules {
        Ok(rules) => Ok(PolicyObject {
            kind: object.kind,
            namespace: object.namespace,
            name: object.name,
            refused: None,
            rules,
        }),
        Err(fault) => Err(Refusal::new(object, fault)),
    }
}
