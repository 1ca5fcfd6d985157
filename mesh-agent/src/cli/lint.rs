//! Policies that are valid and probably do not do what they were written for.

use std::collections::{BTreeMap, HashMap, HashSet};

use abi::Direction;
use policy::identity::pod_labels;
use policy::model::{Action, Peer, Peers, PortMatch, PortRule, PortSpec, Rule, Selector};
use policy::snapshot::{Labels, Namespace, PolicyObject};

use crate::sources::endpoints;
use crate::sources::object::{Kind, Object, ObjectKey};
use crate::sources::problem::Fault;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A remark on an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    pub object: ObjectKey,
    pub fault: Fault,
}

/// Looks at all policies in the light of the other objects.
pub fn lint(objects: &BTreeMap<ObjectKey, Object>) -> Vec<Finding> {
    let pods = pods(objects);
    let policies: Vec<(&ObjectKey, &PolicyObject)> = objects
        .iter()
        .filter_map(|(key, object)| match object {
            Object::Policy(policy) if policy.refused.is_none() => Some((key, &**policy)),
            _ => None,
        })
        .collect();
    let rules = policies.iter().flat_map(|(key, policy)| policy.rules.iter().map(move |rule| (*key, rule)));
    let allowing = allowing(rules);
    let (mut findings, mut told) = (Vec::new(), HashSet::new());
    for (key, policy) in policies {
        let mut add = |path: String, reason: String| {
            let finding = Finding { object: key.clone(), fault: Fault::new(path, reason) };
            if told.insert(finding.clone()) {
                findings.push(finding);
            }
        };
        for rule in &policy.rules {
            selectors(key.kind, rule, &pods, &mut add);
            for ports in rule.ports.iter().flatten().filter(|p| p.http.is_some()) {
                beside_http(key, rule, ports, &allowing, &mut add);
            }
        }
    }
    findings
}

/// Rules that allow, by direction and whom they are for: what may open what a rule of the same closes.
type Allowing<'a> = HashMap<(Direction, &'a Selector), Vec<(&'a ObjectKey, &'a Rule)>>;

fn allowing<'a>(rules: impl Iterator<Item = (&'a ObjectKey, &'a Rule)>) -> Allowing<'a> {
    let mut allowing = Allowing::new();
    for (key, rule) in rules.filter(|(_, rule)| rule.action == Action::Allow) {
        allowing.entry((rule.direction, &rule.subject)).or_default().push((key, rule));
    }
    allowing
}

/// Canonical labels of the pods that a policy can select.
fn pods(objects: &BTreeMap<ObjectKey, Object>) -> Vec<Labels> {
    let pod = |(key, object): (&ObjectKey, &Object)| {
        let Object::Pod(pod) = object else { return None };
        if endpoints::is_host_network(pod) {
            return None;
        }
        let namespace =
            ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: key.namespace.clone() };
        let labels = match objects.get(&namespace) {
            Some(Object::Namespace(namespace)) => namespace.metadata.labels.clone().unwrap_or_default(),
            _ => Labels::new(),
        };
        let mut namespace = Namespace { name: key.namespace.clone(), labels };
        namespace.labels.insert("kubernetes.io/metadata.name".to_owned(), key.namespace.clone());
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
        let own = pod.metadata.labels.clone().unwrap_or_default();
        Some(pod_labels("", &namespace, &account, &own, &endpoints::named_ports(pod)))
    };
    objects.iter().filter_map(pod).collect()
}

/// Selectors that select none of the given pods. Without any pod nothing can be told.
fn selectors(kind: Kind, rule: &Rule, pods: &[Labels], add: &mut impl FnMut(String, String)) {
    if pods.is_empty() {
        return;
    }
    let nobody = |selector: &Selector| !pods.iter().any(|labels| selector.matches(labels));
    if nobody(&rule.subject) {
        let field = if kind == Kind::NetworkPolicy { "podSelector" } else { "endpointSelector" };
        let spec = rule.path.split('.').next().unwrap_or("spec");
        add(format!("{spec}.{field}"), format!("selects none of the {} pods given", pods.len()));
        return;
    }
    let Peers::Of(peers) = &rule.peers else { return };
    if peers.is_empty() {
        add(rule.path.clone(), "names nobody: an empty list selects no peer".to_owned());
    }
    // Peers may be reserved ones (host, world), which no pod is.
    let reserved = (0..abi::IDENTITY_FIRST).filter_map(policy::identity::reserved_name);
    let reserved: Vec<Labels> =
        reserved.map(|name| Labels::from([(format!("reserved:{name}"), String::new())])).collect();
    for peer in peers {
        let Peer::Labels(selector) = peer else { continue };
        if nobody(selector) && !reserved.iter().any(|labels| selector.matches(labels)) {
            let reason = format!("has a peer selector that selects none of the {} pods given", pods.len());
            add(rule.path.clone(), reason);
        }
    }
}

/// What passes beside HTTP rules: the same port over UDP (QUIC), and rules that allow the port as a whole.
fn beside_http(
    key: &ObjectKey,
    rule: &Rule,
    ports: &PortRule,
    allowing: &Allowing<'_>,
    add: &mut impl FnMut(String, String),
) {
    for port in ports.ports.iter().filter(|p| p.proto == TCP) {
        if !rule.default_deny {
            let reason = format!(
                "its HTTP rules do not cover UDP (QUIC) on {}, which is open where nothing else denies it: enableDefaultDeny is off",
                name(&port.port)
            );
            add(ports.path.clone(), reason);
        }
        for (other_key, other) in allowing.get(&(rule.direction, &rule.subject)).into_iter().flatten() {
            let place = match *other_key == key {
                true => other.path.clone(),
                false => format!("{other_key} {}", other.path),
            };
            if plainly_allows(other, UDP, &port.port) {
                let reason = format!(
                    "its HTTP rules do not cover UDP (QUIC) on {}, and {place} allows that",
                    name(&port.port)
                );
                add(ports.path.clone(), reason);
            }
            if plainly_allows(other, TCP, &port.port) && covers(&other.peers, &rule.peers) {
                let reason =
                    format!("its HTTP rules have no effect: {place} allows {} as a whole", name(&port.port));
                add(ports.path.clone(), reason);
            }
        }
    }
}

fn name(port: &PortSpec) -> String {
    match port {
        PortSpec::Any => "every port".to_owned(),
        PortSpec::Range(first, last) if first == last => format!("port {first}"),
        PortSpec::Range(first, last) => format!("ports {first}-{last}"),
        PortSpec::Name(name, _) => format!("port {name:?}"),
    }
}

/// Whether a rule lets the whole of a port pass, whatever is asked on it.
fn plainly_allows(rule: &Rule, proto: u8, port: &PortSpec) -> bool {
    let Some(ports) = &rule.ports else { return true };
    let matches = |m: &PortMatch| {
        m.proto == proto
            && match (&m.port, port) {
                (PortSpec::Any, _) => true,
                (PortSpec::Range(first, last), PortSpec::Range(a, b)) => first <= a && b <= last,
                (own, other) => own == other,
            }
    };
    ports.iter().any(|p| p.http.is_none() && p.ports.iter().any(matches))
}

fn covers(wide: &Peers, narrow: &Peers) -> bool {
    matches!(wide, Peers::Any) || wide == narrow
}
