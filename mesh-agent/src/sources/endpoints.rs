//! One pod into one endpoint of the snapshot: labels, identity, ports, addresses, readiness.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use policy::identity::{self, Identities, NoIdentityLeft};
use policy::snapshot::{Endpoint, Labels, NamedPort, Namespace, Node};

use super::registry::Registration;
use super::validate;

/// What else decides about a pod's endpoint.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub cluster: &'a str,
    /// The node that we run on.
    pub here: &'a str,
    pub namespace: &'a Namespace,
    /// The pod's node, if it is known.
    pub node: Option<&'a Node>,
    pub registration: Option<&'a Registration>,
    /// Kubelet reports readiness in the pod's status.
    pub managed: bool,
}

/// Annotations that mean something here.
pub const ANNOTATIONS: [&str; 3] = [CONFIG_HASH, BANDWIDTH[0], BANDWIDTH[1]];
/// Kubelet's own name for a pod of its own making (a static pod), whose object in the API has another uid.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Limits that nobody here keeps.
const BANDWIDTH: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

/// The name of the pod's node. A manifest without one is for this node.
pub fn node_name<'a>(pod: &'a Pod, here: &'a str) -> &'a str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()).unwrap_or(here)
}

/// Whether the pod shares its node's network.
pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// The endpoint of a pod, `None` as long as it has no address.
///
/// # Errors
/// Its label set got no number.
pub fn endpoint(
    pod: &Pod,
    around: &Surroundings<'_>,
    identities: &mut Identities,
) -> Result<Option<Endpoint>, NoIdentityLeft> {
    let node = node_name(pod, around.here);
    let host_network = is_host_network(pod);
    // What an attachment says counts for pods of this node alone; nobody attaches a hostNetwork pod.
    let registration = around.registration.filter(|_| node == around.here && !host_network);
    let addresses = match registration {
        Some(registration) => registration.addresses.clone(),
        None if host_network => around.node.map(|n| n.addresses.clone()).unwrap_or_default(),
        None => status_addresses(pod),
    };
    if addresses.is_empty() {
        return Ok(None);
    }
    let spec = pod.spec.as_ref();
    let service_account = spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default();
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let named_ports = named_ports(pod);
    let (identity, identity_labels) = if host_network {
        node_identity(node == around.here)
    } else {
        let set =
            identity::pod_labels(around.cluster, around.namespace, &service_account, &labels, &named_ports);
        (identities.assign(&set)?, set)
    };
    Ok(Some(Endpoint {
        id: registration.map_or(0, |r| r.endpoint),
        namespace: around.namespace.name.clone(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        service_account: if service_account.is_empty() { "default".to_owned() } else { service_account },
        labels,
        identity,
        identity_labels: Arc::new(identity_labels),
        addresses,
        named_ports,
        node: node.to_owned(),
        host_network,
        ready: pod.metadata.deletion_timestamp.is_none()
            && registration.filter(|_| !around.managed).map_or_else(|| status_ready(pod), |r| r.ready),
    }))
}

fn node_identity(local: bool) -> (u32, Labels) {
    let (number, name) = match local {
        true => (abi::IDENTITY_HOST, "reserved:host"),
        false => (abi::IDENTITY_REMOTE_NODE, "reserved:remote-node"),
    };
    (number, Labels::from([(name.to_owned(), String::new())]))
}

/// Whether the pod is the one of this uid, as its runtime calls it.
pub fn has_uid(pod: &Pod, uid: &str) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    pod.metadata.uid.as_deref() == Some(uid)
        || annotations.and_then(|a| a.get(CONFIG_HASH)).is_some_and(|hash| hash == uid)
}

/// What a pod asks of its network that it cannot get.
pub fn unsupported(pod: &Pod) -> Option<&'static str> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    if ports.any(|port| port.host_port.is_some_and(|port| port != 0)) {
        return Some("hostPort");
    }
    let annotations = pod.metadata.annotations.as_ref()?;
    BANDWIDTH.into_iter().find(|name| annotations.contains_key(*name))
}

/// What the pod's status says; nothing for one that has ended.
fn status_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let list = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> =
        list.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|ip| seen.insert(*ip));
    addresses
}

/// A manifest that lists no conditions means a pod that just is there.
fn status_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == "Ready").all(|c| c.status == "True")
}

/// Whether an init container lives as long as the pod.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The named ports of the containers that live as long as the pod.
pub fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut named: Vec<NamedPort> = ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                port: u16::try_from(port.container_port).ok()?,
                proto: validate::protocol(port.protocol.as_deref(), "").ok()?,
            })
        })
        .collect();
    // The first container that uses a name has it.
    let mut seen = std::collections::BTreeSet::new();
    named.retain(|port| seen.insert((port.name.clone(), port.proto)));
    named
}
