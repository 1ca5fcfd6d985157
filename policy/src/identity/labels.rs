//! The canonical label set of a pod, as Cilium makes it.

use crate::model;
use crate::snapshot::{Labels, NamedPort, Namespace};

/// Name of the cluster where none is configured.
pub const DEFAULT_CLUSTER: &str = "default";

/// Prefix of labels that belong to the machinery; a pod cannot set them itself.
const OWN: &str = "io.cilium.k8s";
/// Generated labels with the names of a pod's ports: pods whose names mean other ports are other peers.
const NAMED_PORTS: &str = "gen:io.cilium.k8s.named-ports";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Longest value of a label (Kubernetes).
const VALUE_MAX: usize = 63;

/// The labels of a pod that its identity is made of, with their sources: its own without those that differ
/// between equal pods (`pod-template-hash`, ...), its namespace's, its service account, its named ports.
pub fn pod_labels(
    cluster: &str,
    namespace: &Namespace,
    service_account: &str,
    pod: &Labels,
    named_ports: &[NamedPort],
) -> Labels {
    let mut out = Labels::new();
    let own = |key: &str| key.starts_with(OWN) || key == model::NAMESPACE_LABEL;
    for (key, value) in pod.iter().filter(|(key, _)| !own(key) && is_identity_label(key)) {
        out.insert(format!("k8s:{key}"), value.clone());
    }
    for (key, value) in &namespace.labels {
        out.insert(format!("k8s:{}.{key}", model::NAMESPACE_LABELS_PREFIX), value.clone());
    }
    out.insert(format!("k8s:{}", model::NAMESPACE_LABEL), namespace.name.clone());
    let account = if service_account.is_empty() { "default" } else { service_account };
    out.insert(format!("k8s:{SERVICE_ACCOUNT}"), account.to_owned());
    let cluster = if cluster.is_empty() { DEFAULT_CLUSTER } else { cluster };
    out.insert(format!("k8s:{}", model::CLUSTER_LABEL), cluster.to_owned());
    for (i, value) in named_port_values(named_ports).into_iter().enumerate() {
        let suffix = if i == 0 { String::new() } else { format!("-{i}") };
        out.insert(format!("{NAMED_PORTS}{suffix}"), value);
    }
    out
}

/// Cilium's default filter: the longest match of the kept prefixes against the shortest of the dropped.
fn is_identity_label(key: &str) -> bool {
    const KEPT: [&str; 1] = ["app.kubernetes.io"];
    const DROPPED: [&str; 15] = [
        "io.kubernetes",
        "kubernetes.io",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "k8s.io",
        "pod-template-generation",
        "pod-template-hash",
        "controller-revision-hash",
        "controller-uid",
        "annotation",
        "etcd_node",
        "topology.kubernetes.io",
        "beta.kubernetes.io",
    ];
    let starts = |list: &[&str]| list.iter().any(|prefix| key.starts_with(prefix));
    starts(&KEPT) || !(starts(&DROPPED) || key.contains("beta.kubernetes.io"))
}

/// `name.PROTO.port` joined by `_`, in as many values as it takes.
fn named_port_values(ports: &[NamedPort]) -> Vec<String> {
    let mut parts: Vec<String> = ports
        .iter()
        .filter(|p| !p.name.is_empty())
        .map(|p| format!("{}.{}.{}", p.name.to_ascii_lowercase(), crate::proto_name(p.proto), p.port))
        .collect();
    parts.sort();
    parts.dedup();
    let mut values: Vec<String> = Vec::new();
    for part in parts {
        match values.last_mut() {
            Some(value) if value.len() + 1 + part.len() <= VALUE_MAX => {
                value.push('_');
                value.push_str(&part);
            }
            _ => values.push(part),
        }
    }
    values
}
