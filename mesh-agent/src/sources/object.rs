//! The objects that are read: their kinds, names and typed content.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy::snapshot::PolicyObject;

/// The kinds that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
    ];

    /// The kind of an object with these fields. `Err` with a kind: that kind, but in a version that is not
    /// read. `Err` with none: not one of ours.
    pub fn of(api_version: &str, kind: &str) -> Result<Self, Option<Self>> {
        let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let found = Self::ALL.into_iter().find(|k| k.name() == kind).ok_or(None)?;
        if found.api_version() == api_version {
            return Ok(found);
        }
        // Other groups have a Service, a Node or a NetworkPolicy too; nobody else has Cilium's kinds.
        // NetworkPolicy once lived in `extensions`.
        let ours = group(api_version) == group(found.api_version())
            || found.api_version() == "cilium.io/v2"
            || (found == Self::NetworkPolicy && group(api_version) == "extensions");
        Err(ours.then_some(found))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy => "cilium.io/v2",
        }
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::CiliumClusterwideNetworkPolicy)
    }

    pub fn is_policy(self) -> bool {
        matches!(self, Self::NetworkPolicy | Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy)
    }
}

/// What an object is known by. Two objects of one key cannot both be in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for a cluster-wide kind.
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    /// `namespace/name`, or the name alone of a cluster-wide object.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.path())
    }
}

/// A valid object, or a policy that stands for a refused one.
#[derive(Clone, Debug)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Policy(Arc<PolicyObject>),
}
