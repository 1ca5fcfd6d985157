//! The rule that would have allowed a similar flow. Advice for people: it reads the rules as written, and
//! has no say in any verdict.

use std::sync::Arc;

use abi::Direction;
use ipnet::IpNet;

use super::Party;
use crate::model::{Action, Entity, Peer, Peers, PortSpec, Rule};
use crate::snapshot::{Endpoint, PolicyObject, Snapshot};

/// What came nearest, as a sentence.
pub(super) fn find(
    snapshot: &Snapshot,
    objects: &[Arc<PolicyObject>],
    endpoint: &Endpoint,
    direction: Direction,
    peer: &Party,
    proto: u8,
    port: u16,
) -> Option<String> {
    let named = match direction {
        Direction::Ingress => Some(endpoint),
        Direction::Egress => {
            peer.endpoint.as_ref().and_then(|n| snapshot.endpoints.get(n)).map(AsRef::as_ref)
        }
    };
    let mut best: Option<(u8, String)> = None;
    for object in objects {
        for rule in &object.rules {
            let applies = rule.direction == direction
                && rule.action == Action::Allow
                && rule.subject.matches(&endpoint.identity_labels);
            if !applies {
                continue;
            }
            let peer_ok = peer_matches(&rule.peers, peer);
            let port_ok = port_matches(rule, named, proto, port);
            let score = u8::from(peer_ok) * 2 + u8::from(port_ok);
            if best.as_ref().is_none_or(|(top, _)| score > *top) {
                best = Some((score, describe(object, rule, peer_ok, port_ok)));
            }
        }
    }
    best.map(|(_, text)| text)
}

fn describe(object: &PolicyObject, rule: &Rule, peer_ok: bool, port_ok: bool) -> String {
    let namespace =
        if object.namespace.is_empty() { String::new() } else { format!("{}/", object.namespace) };
    let name = format!("{} {namespace}{} {}", object.kind, object.name, rule.path);
    let nobody = matches!(&rule.peers, Peers::Of(list) if list.is_empty());
    match (peer_ok, port_ok) {
        _ if nobody => format!("{name} allows nobody"),
        (true, false) => format!("{name} allows this peer, but only {}", ports(rule)),
        (false, true) => format!("{name} allows this port, but not this peer"),
        _ => format!("{name} allows other peers, and only {}", ports(rule)),
    }
}

fn peer_matches(peers: &Peers, party: &Party) -> bool {
    let Peers::Of(list) = peers else { return true };
    let reserved = |name: &str| party.labels.contains_key(&format!("reserved:{name}"));
    list.iter().any(|peer| match peer {
        Peer::Labels(selector) => selector.matches(&party.labels),
        Peer::Entity(Entity::All) => true,
        Peer::Entity(entity) => reserved(entity.name()),
        Peer::Cidr(block) => party.address.is_some_and(|address| {
            let net = IpNet::from(address);
            let outside = party.endpoint.is_none() || block.pods;
            outside && block.cidr.contains(&net) && !block.except.iter().any(|e| e.contains(&net))
        }),
    })
}

fn port_matches(rule: &Rule, named: Option<&Endpoint>, proto: u8, port: u16) -> bool {
    let Some(parts) = &rule.ports else { return true };
    parts.iter().flat_map(|p| &p.ports).any(|p| {
        p.proto == proto
            && match &p.port {
                PortSpec::Any => true,
                PortSpec::Range(first, last) => (*first..=*last).contains(&port),
                PortSpec::Name(name, _) => named.is_some_and(|e| {
                    let own = |n: &crate::snapshot::NamedPort| n.proto == proto && n.port == port;
                    e.named_ports.iter().any(|n| own(n) && n.name.eq_ignore_ascii_case(name))
                }),
            }
    })
}

fn ports(rule: &Rule) -> String {
    let Some(parts) = &rule.ports else { return "any port".to_owned() };
    let mut out: Vec<String> = Vec::new();
    for port in parts.iter().flat_map(|p| &p.ports) {
        let proto = crate::proto_name(port.proto);
        out.push(match &port.port {
            PortSpec::Any => proto.to_owned(),
            PortSpec::Range(a, b) if a == b => format!("{proto} {a}"),
            PortSpec::Range(a, b) => format!("{proto} {a}-{b}"),
            PortSpec::Name(name, _) => format!("{proto} {name:?}"),
        });
    }
    if out.is_empty() { "no port".to_owned() } else { out.join(", ") }
}
