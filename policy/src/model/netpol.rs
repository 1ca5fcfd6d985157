//! networking.k8s.io/v1 NetworkPolicy.

use abi::{Direction, proto};
use serde_json::Value;

use super::raw::{self, RawNetPeer, RawNetPort, RawNetRule, RawNetworkPolicy};
use super::refusal::{Fault, ObjectRef};
use super::selector::{CLUSTER, NAMESPACE, Requirement, Selector};
use super::{Action, Peer, Peers, PortMatch, PortRule, PortSpec, Rule, Tier, cidr, ports};

pub(super) fn parse(object: &ObjectRef, manifest: &Value) -> Result<Vec<Rule>, Fault> {
    let raw = raw::read::<RawNetworkPolicy>(manifest, "networking.k8s.io/v1")?;
    if object.name.is_empty() {
        return Err(Fault::new("metadata.name", "must be given"));
    }
    if raw.specs.is_some() {
        return Err(Fault::new("specs", "unknown in a NetworkPolicy"));
    }
    let spec = raw.spec.ok_or_else(|| Fault::new("spec", "must be given"))?;
    let selector =
        spec.pod_selector.as_ref().ok_or_else(|| Fault::new("spec.podSelector", "must be given"))?;
    let subject = Selector::read(selector, "spec.podSelector", true)?.in_namespace(&object.namespace);
    let types = spec.policy_types.as_deref().unwrap_or_default();
    for (i, name) in types.iter().enumerate() {
        if name != "Ingress" && name != "Egress" {
            let reason = format!("{name:?} is not Ingress or Egress");
            return Err(Fault::new(format!("spec.policyTypes[{i}]"), reason));
        }
    }
    let has = |name: &str| types.iter().any(|t| t == name);
    let mut rules = Vec::new();
    let lists = [
        ("ingress", Direction::Ingress, &spec.ingress, has("Ingress") || !has("Egress")),
        ("egress", Direction::Egress, &spec.egress, has("Egress")),
    ];
    for (field, direction, list, isolates) in lists {
        let list = list.as_deref().unwrap_or_default();
        for (i, rule) in list.iter().enumerate() {
            let path = format!("spec.{field}[{i}]");
            let (peers, ports) = read_rule(object, rule, direction, &path)?;
            rules.push(make(path, &subject, direction, peers, ports));
        }
        // Without a rule the direction is closed; the rules of a direction that policyTypes leaves out
        // count all the same, as in Cilium.
        if list.is_empty() && isolates {
            let nobody = Peers::Of(Vec::new());
            rules.push(make(format!("spec.{field}"), &subject, direction, nobody, None));
        }
    }
    Ok(rules)
}

fn make(
    path: String,
    subject: &Selector,
    direction: Direction,
    peers: Peers,
    ports: Option<Vec<PortRule>>,
) -> Rule {
    Rule {
        path,
        subject: subject.clone(),
        direction,
        action: Action::Allow,
        tier: Tier::Normal,
        priority: 0,
        default_deny: true,
        peers,
        ports,
    }
}

fn read_rule(
    object: &ObjectRef,
    raw: &RawNetRule,
    direction: Direction,
    path: &str,
) -> Result<(Peers, Option<Vec<PortRule>>), Fault> {
    let (field, peers, foreign, foreign_field) = match direction {
        Direction::Ingress => ("from", &raw.from, &raw.to, "to"),
        Direction::Egress => ("to", &raw.to, &raw.from, "from"),
    };
    if foreign.is_some() {
        let reason = format!("unknown here; this direction has {field:?}");
        return Err(Fault::new(format!("{path}.{foreign_field}"), reason));
    }
    let list = peers.as_deref().unwrap_or_default();
    let mut peers = Vec::new();
    for (i, peer) in list.iter().enumerate() {
        peers.push(read_peer(object, peer, &format!("{path}.{field}[{i}]"))?);
    }
    // Unlike in Cilium's policies an empty list is anybody (API reference of NetworkPolicyIngressRule).
    let peers = if peers.is_empty() { Peers::Any } else { Peers::Of(peers) };
    let list = raw.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::new();
    for (i, port) in list.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let port = read_port(port, &path)?;
        ports.push(PortRule { path, ports: vec![port], http: None });
    }
    Ok((peers, (!ports.is_empty()).then_some(ports)))
}

fn read_peer(object: &ObjectRef, raw: &RawNetPeer, path: &str) -> Result<Peer, Fault> {
    if let Some(block) = &raw.ip_block {
        if raw.pod_selector.is_some() || raw.namespace_selector.is_some() {
            let reason = "not possible together with podSelector or namespaceSelector";
            return Err(Fault::new(format!("{path}.ipBlock"), reason));
        }
        let block = cidr::read_except(&block.cidr, &block.except, true, &format!("{path}.ipBlock"))?;
        return Ok(Peer::Cidr(block));
    }
    if raw.pod_selector.is_none() && raw.namespace_selector.is_none() {
        let reason = "needs podSelector, namespaceSelector or ipBlock";
        return Err(Fault::new(path, reason));
    }
    let mut selector = match &raw.pod_selector {
        Some(selector) => Selector::read(selector, &format!("{path}.podSelector"), true)?,
        None => Selector::default(),
    };
    match &raw.namespace_selector {
        Some(raw) => {
            let namespaces = Selector::read(raw, &format!("{path}.namespaceSelector"), true)?;
            if namespaces.all.is_empty() {
                selector.all.push(Requirement::k8s_exists(NAMESPACE));
            }
            selector.all.extend(namespaces.all.into_iter().map(Requirement::of_namespace));
        }
        None => selector = selector.in_namespace(&object.namespace),
    }
    // Pods only: a node or an address has no labels of a cluster, and "NotIn" would select it otherwise.
    selector.all.push(Requirement::k8s_exists(CLUSTER));
    Ok(Peer::Labels(selector))
}

fn read_port(raw: &RawNetPort, path: &str) -> Result<PortMatch, Fault> {
    let proto = match raw.protocol.as_deref() {
        None | Some("TCP") => proto::TCP,
        Some("UDP") => proto::UDP,
        Some("SCTP") => proto::SCTP,
        Some(other) => {
            let reason = format!("{other:?} is not one of TCP, UDP, SCTP");
            return Err(Fault::new(format!("{path}.protocol"), reason));
        }
    };
    let at = format!("{path}.port");
    let text = match &raw.port {
        None if raw.end_port.is_some() => {
            return Err(Fault::new(format!("{path}.endPort"), "needs a port"));
        }
        None => return Ok(PortMatch { proto, port: PortSpec::Any }),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(name)) if name.bytes().any(|b| b.is_ascii_alphabetic()) => name.clone(),
        Some(other) => {
            return Err(Fault::new(at, format!("{other} is neither a number nor a port's name")));
        }
    };
    if text == "0" {
        return Err(Fault::new(at, "0 is not a port from 1 to 65535"));
    }
    if raw.end_port == Some(0) {
        return Err(Fault::new(format!("{path}.endPort"), "0 is not a port from 1 to 65535"));
    }
    let port = ports::read_port_text(&text, raw.end_port, path)?;
    if matches!(port, PortSpec::Name(_, Some(_))) {
        return Err(Fault::new(format!("{path}.endPort"), "not possible with a named port"));
    }
    Ok(PortMatch { proto, port })
}
