//! From a case to the snapshot of a cluster in which every pod is on this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::raw::{RawCase, RawEndpoint};
use super::{CaseError, PolicyResult};
use crate::identity::{self, Identities};
use crate::model::{self, KINDS};
use crate::snapshot::{
    AllowLocalhost, Endpoint, Enforcement, NamedPort, Namespace, Node, Settings, Snapshot,
};

/// Namespace of what names none.
const DEFAULT: &str = "default";
/// Name of the node where the case has no local one.
const NODE: &str = "node";

pub(super) struct Built {
    pub(super) snapshot: Snapshot,
    pub(super) policies: Vec<PolicyResult>,
}

pub(super) fn build(case: &RawCase) -> Result<Built, CaseError> {
    let mut snapshot =
        Snapshot { revision: 1, settings: settings(case)?, node: NODE.to_owned(), ..Snapshot::default() };
    add_nodes(case, &mut snapshot)?;
    add_endpoints(case, &mut snapshot)?;
    let mut policies = Vec::new();
    for manifest in case.policies.iter().flat_map(items) {
        add_policy(manifest, &mut snapshot, &mut policies)?;
    }
    Ok(Built { snapshot, policies })
}

fn invalid(path: impl Into<String>, reason: impl Into<String>) -> CaseError {
    CaseError::Invalid { path: path.into(), reason: reason.into() }
}

fn settings(case: &RawCase) -> Result<Settings, CaseError> {
    let config = &case.config;
    let switches = [
        ("hostFirewall", config.host_firewall),
        ("cidrMatchNodes", config.cidr_match_nodes),
        ("nodeSelectorLabels", config.node_selector_labels),
        ("extendedProtocols", config.extended_protocols),
    ];
    if let Some((name, _)) = switches.iter().find(|(_, on)| *on) {
        return Err(CaseError::Unsupported(name));
    }
    Ok(Settings {
        allow_localhost: match config.allow_localhost.as_str() {
            "" | "always" => AllowLocalhost::Always,
            "policy" => AllowLocalhost::Policy,
            _ => return Err(invalid("config.allowLocalhost", "must be always or policy")),
        },
        enforcement: match config.enforcement.as_str() {
            "" | "default" => Enforcement::Default,
            "always" => Enforcement::Always,
            "never" => Enforcement::Never,
            _ => return Err(invalid("config.enforcement", "must be default, always or never")),
        },
        ipv4_only: !config.ipv6,
        kube_apiserver: addresses(&case.apiserver, "apiserver")?,
    })
}

fn addresses(texts: &[String], path: &str) -> Result<Vec<IpAddr>, CaseError> {
    let texts = texts.iter().enumerate();
    let read = |(i, text): (usize, &String)| {
        text.parse().map_err(|_| invalid(format!("{path}[{i}]"), format!("{text:?} is no address")))
    };
    texts.map(read).collect()
}

fn add_nodes(case: &RawCase, snapshot: &mut Snapshot) -> Result<(), CaseError> {
    for (i, raw) in case.nodes.iter().enumerate() {
        let name = if raw.name.is_empty() { format!("node-{i}") } else { raw.name.clone() };
        if raw.local {
            snapshot.node.clone_from(&name);
        }
        let node = Node {
            name: name.clone(),
            labels: raw.labels.clone(),
            addresses: addresses(&raw.ips, &format!("nodes[{i}].ips"))?,
            pod_cidrs: Vec::new(),
            kube_apiserver: false,
        };
        snapshot.nodes.insert(name, Arc::new(node));
    }
    Ok(())
}

fn add_endpoints(case: &RawCase, snapshot: &mut Snapshot) -> Result<(), CaseError> {
    let mut identities = Identities::default();
    for (i, raw) in case.endpoints.iter().enumerate() {
        if !raw.reserved.is_empty() {
            return Err(invalid(format!("endpoints[{i}].reserved"), "not supported yet"));
        }
        let endpoint = endpoint(case, i, raw, snapshot, &mut identities)?;
        let key = format!("{}/{}", endpoint.namespace, endpoint.name);
        if snapshot.endpoints.insert(key.clone(), Arc::new(endpoint)).is_some() {
            return Err(invalid(format!("endpoints[{i}]"), format!("{key} is there twice")));
        }
    }
    Ok(())
}

fn endpoint(
    case: &RawCase,
    index: usize,
    raw: &RawEndpoint,
    snapshot: &mut Snapshot,
    identities: &mut Identities,
) -> Result<Endpoint, CaseError> {
    let path = format!("endpoints[{index}]");
    let namespace = if raw.namespace.is_empty() { DEFAULT } else { &raw.namespace };
    let namespace = snapshot.namespaces.entry(namespace.to_owned()).or_insert_with(|| {
        let mut labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())]);
        labels.extend(
            case.namespaces.get(namespace).into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())),
        );
        Arc::new(Namespace { name: namespace.to_owned(), labels })
    });
    let mut named_ports = Vec::new();
    for (j, port) in raw.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let proto = crate::proto_number(protocol)
            .ok_or_else(|| invalid(format!("{path}.ports[{j}].protocol"), "unknown"))?;
        named_ports.push(NamedPort { name: port.name.clone(), port: port.port, proto });
    }
    let cluster = &case.config.cluster_name;
    let labels = identity::pod_labels(cluster, namespace, &raw.service_account, &raw.labels, &named_ports);
    let addresses = if raw.ips.is_empty() {
        vec![IpAddr::from([10, 244, (index / 250) as u8, (index % 250 + 1) as u8])]
    } else {
        addresses(&raw.ips, &format!("{path}.ips"))?
    };
    Ok(Endpoint {
        id: index as u32 + 1,
        namespace: namespace.name.clone(),
        name: raw.name.clone(),
        service_account: raw.service_account.clone(),
        labels: raw.labels.clone(),
        identity: identities.assign(&labels).map_err(|e| invalid(&path, e.to_string()))?,
        identity_labels: Arc::new(labels),
        addresses,
        named_ports,
        node: snapshot.node.clone(),
        host_network: false,
        ready: true,
    })
}

/// The objects of a manifest, which may be a list.
fn items(manifest: &Value) -> Vec<&Value> {
    match manifest.get("items").and_then(Value::as_array) {
        Some(items) if !items.is_empty() => items.iter().collect(),
        _ => vec![manifest],
    }
}

fn add_policy(
    manifest: &Value,
    snapshot: &mut Snapshot,
    policies: &mut Vec<PolicyResult>,
) -> Result<(), CaseError> {
    let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or("");
    // What a policy refers to and nothing reads yet; the policy itself is refused then.
    if kind == "CiliumCIDRGroup" {
        return Ok(());
    }
    if !KINDS.contains(&kind) {
        return Err(invalid("policies", format!("{kind:?} is no kind of policy")));
    }
    let object = match model::parse(kind, manifest) {
        Ok(object) => object,
        Err(refusal) => model::refused_object(kind, manifest, &refusal),
    };
    policies.push(PolicyResult {
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        refused: object.refused.clone(),
    });
    snapshot.policies.insert(object.key(), Arc::new(object));
    Ok(())
}
