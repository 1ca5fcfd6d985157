//! The state of the world that everything downstream is computed from. Nothing in it knows of files or of
//! the Kubernetes API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Labels of an object, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// All that is known, at one revision. Cheap to clone: the parts are shared.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with each change; never 0 once published.
    pub revision: u32,
    pub settings: Settings,
    /// The name of the node we run on, a key of `nodes`.
    pub node: String,
    pub nodes: BTreeMap<String, Arc<Node>>,
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Every pod with an address, on whatever node, by `namespace/name`.
    pub endpoints: BTreeMap<String, Arc<Endpoint>>,
    /// By `namespace/name`.
    pub services: BTreeMap<String, Arc<Service>>,
    /// By `kind/namespace/name`; valid and refused ones.
    pub policies: BTreeMap<String, Arc<PolicyObject>>,
}

/// Settings of the node that change verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub allow_localhost: AllowLocalhost,
    pub enforcement: Enforcement,
    /// A cluster without IPv6: the world is one identity (2), not one per family (9 and 10).
    pub ipv4_only: bool,
    /// Addresses of an API server outside the cluster's nodes.
    pub kube_apiserver: Vec<IpAddr>,
}

/// Which endpoints have a default deny without any rule (Cilium's `enable-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Those that a rule selects, in the directions that it speaks of.
    #[default]
    Default,
    /// All of them, in both directions.
    Always,
    /// None: policies are read and have no effect.
    Never,
}

/// Whether the node may always reach its own pods (Cilium's `allow-localhost`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowLocalhost {
    #[default]
    Always,
    Policy,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the API server runs here (its addresses then belong to entity kube-apiserver too).
    pub kube_apiserver: bool,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    /// Always holds `kubernetes.io/metadata.name`.
    pub labels: Labels,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Node-local number, 1 or more, of a pod of this node; 0 for the others.
    pub id: u32,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    /// The pod's own labels, without prefixes.
    pub labels: Labels,
    /// Identity of `identity_labels`, assigned by the source.
    pub identity: u32,
    /// The canonical label set behind `identity`: `k8s:` labels of the pod, of its namespace, and so on.
    pub identity_labels: Arc<Labels>,
    pub addresses: Vec<IpAddr>,
    pub named_ports: Vec<NamedPort>,
    pub node: String,
    /// Shares the node's network: has the node's identity, no policy selects it.
    pub host_network: bool,
    pub ready: bool,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
}

/// A service with its backends already resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` in seconds; 0 = none.
    pub affinity_seconds: u32,
    /// `externalName`, for DNS only.
    pub external_name: Option<String>,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the port has no name.
    pub name: String,
    pub port: u16,
    pub proto: u8,
    pub app_protocol: Option<String>,
    pub backends: Vec<Backend>,
}

/// One endpoint address of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
    pub ready: bool,
    /// `namespace/name` of the pod, if it is one.
    pub endpoint: Option<String>,
    /// Host name within the service's domain, for DNS.
    pub hostname: Option<String>,
}

/// A policy as the compiler takes it: the last valid version, or a refusal that denies its subjects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyObject {
    /// `CiliumNetworkPolicy`, `CiliumClusterwideNetworkPolicy` or `NetworkPolicy`.
    pub kind: String,
    /// Empty for a clusterwide policy.
    pub namespace: String,
    pub name: String,
    /// Why the newest version was refused, if it was (object, field path and reason).
    pub refused: Option<String>,
    /// The rules in force: of the newest version, or of the last valid one, or denials.
    pub rules: Vec<crate::model::Rule>,
}

impl PolicyObject {
    /// `kind/namespace/name`, the key in [`Snapshot::policies`].
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}
