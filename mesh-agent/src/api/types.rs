//! The JSON that the agent's API speaks; see [`crate::api`] for the paths. Field names are stable: fields
//! are added, never renamed. The command line's `-o json` prints these very documents.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::publish::proxy::ProxyStatus;

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub instance: String,
    pub version: String,
    pub node: String,
    /// `enforcing`, and names resolve if this node brings the cluster's DNS. Pods may still be starting:
    /// compare `endpointsReady` with `endpoints`.
    pub ready: bool,
    /// Policy is in force in the kernel, nothing is wrong with it, and a proxy keeps up.
    pub enforcing: bool,
    /// Policy revision in force; 0 = none yet.
    pub revision: u32,
    pub agent: AgentStatus,
    /// The newest proxy; absent if none is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStatus>,
    /// All of them: two during a hand-over.
    pub proxies: Vec<ProxyStatus>,
    /// Pods that are ready: enforced, called ready by whoever runs them, and behind their services.
    pub endpoints_ready: usize,
    /// All pods of this node with a network of their own, attached yet or not.
    pub endpoints: usize,
    pub services: usize,
    pub identities: usize,
    pub policies: usize,
    pub policies_refused: usize,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

impl Status {
    /// Names resolve, services connect: the node is ready, and so is every pod of it.
    pub fn all_ready(&self) -> bool {
        self.ready && self.endpoints_ready == self.endpoints
    }
}

/// The agent's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub pid: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about, such as `CiliumNetworkPolicy shop/api`, `datapath`, `proxy`.
    pub object: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// `GET /v1/endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub endpoints: Vec<Endpoint>,
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub id: u32,
    pub namespace: String,
    pub name: String,
    /// Its policy is in the kernel, and whoever runs the pod calls it ready.
    pub ready: bool,
    /// `ready`; `not ready`: enforced, but the pod is not ready; `waiting`: its policy is not in the kernel
    /// yet; `no manifest`: its manifest is gone, everything of it is dropped.
    pub state: String,
    pub identity: u32,
    pub labels: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub interface: String,
    pub container_id: String,
    /// Entries of its policy map.
    pub policy_entries: usize,
    /// Rules with a layer 7 part.
    pub l7_rules: usize,
}

/// `GET /v1/services`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    pub services: Vec<Service>,
}

/// One service port at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    pub address: SocketAddr,
    pub protocol: String,
    /// Pods' connections go to the proxy, which picks the backend for each request.
    pub l7: bool,
    pub affinity_seconds: u32,
    /// Ready ones.
    pub backends: Vec<SocketAddr>,
}

/// `GET /v1/identities`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    pub identities: Vec<Identity>,
}

/// A security identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub id: u32,
    pub labels: Vec<String>,
    /// `namespace/name` of the pods that have it.
    pub pods: Vec<String>,
}

/// `GET /v1/policies`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    pub policies: Vec<Policy>,
}

/// A policy object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    /// Rules in force.
    pub rules: usize,
    /// Why the newest version was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub in_force: InForce,
    /// With `lastValid`: since when that version has been in force, RFC 3339, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Which version of a policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InForce {
    /// The one that is written.
    #[default]
    Newest,
    /// The newest is refused, the one before it stays.
    LastValid,
    /// It was never valid: what it selects is denied.
    Denial,
    /// It was never valid, and nobody can tell whom it means (a cluster-wide policy without a readable
    /// selector).
    Nothing,
}

/// A line of `GET /v1/pods`: what whoever runs pods needs to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePods {
    pub node: String,
    pub node_addresses: Vec<IpAddr>,
    /// Cluster addresses of service kube-system/kube-dns.
    pub dns_servers: Vec<IpAddr>,
    /// Manifests in force of pods of this node.
    pub pods: Vec<Arc<Pod>>,
}

/// `POST /v1/explain`: what would become of this connection (and request).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// `namespace/pod`, an address, or an entity such as `world`.
    pub from: String,
    /// The same, or `namespace/service`.
    pub to: String,
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`; for the last two `port` is the type.
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<ExplainHttp>,
}

/// The request of an [`ExplainRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainHttp {
    pub method: String,
    pub path: String,
    pub host: String,
    /// Name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}
