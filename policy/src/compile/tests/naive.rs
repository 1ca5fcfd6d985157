//! A second reading of the rules, straight from what they say, one rule after the other and without maps,
//! identities or precedence. It shares no code with the compiler but the rules' own types.

use std::net::IpAddr;

use abi::{Direction, proto};
use ipnet::IpNet;

use crate::model::{Action, Entity, Peer, Peers, PortSpec, Rule};
use crate::snapshot::{AllowLocalhost, Endpoint, Snapshot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Deny,
    Redirect,
    Allow,
}

/// The other side: an address and the pod or node it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Other<'a> {
    pub(super) address: IpAddr,
    pub(super) pod: Option<&'a Endpoint>,
    /// `Some(true)`: this node.
    pub(super) node: Option<bool>,
}

pub(super) fn other(snapshot: &Snapshot, address: IpAddr) -> Other<'_> {
    let pod = snapshot.endpoints.values().find(|e| e.addresses.contains(&address)).map(AsRef::as_ref);
    let node = snapshot.nodes.values().find(|n| n.addresses.contains(&address));
    Other { address, pod, node: node.map(|n| n.name == snapshot.node) }
}

pub(super) fn read(
    snapshot: &Snapshot,
    direction: Direction,
    of: &Endpoint,
    other: Other<'_>,
    proto: u8,
    port: u16,
) -> Answer {
    let mut rules: Vec<&Rule> = Vec::new();
    for object in snapshot.policies.values() {
        for rule in &object.rules {
            if rule.direction == direction && rule.subject.matches(&of.identity_labels) {
                rules.push(rule);
            }
        }
    }
    let named = if direction == Direction::Ingress { Some(of) } else { other.pod };
    let matching: Vec<(&Rule, bool)> = rules
        .iter()
        .filter_map(|rule| Some((*rule, rule_matches(rule, other, named, proto, port)?)))
        .collect();
    if matching.iter().any(|(rule, _)| rule.action == Action::Deny) {
        return Answer::Deny;
    }
    let always = snapshot.settings.allow_localhost == AllowLocalhost::Always;
    if direction == Direction::Ingress && other.node == Some(true) && always {
        return Answer::Allow;
    }
    if matching.iter().any(|(rule, _)| rule.action == Action::Refuse) {
        return Answer::Deny;
    }
    if matching.iter().any(|(_, http)| *http) {
        return Answer::Redirect;
    }
    if !matching.is_empty() || !rules.iter().any(|rule| rule.default_deny) {
        return Answer::Allow;
    }
    Answer::Deny
}

/// `None` if a rule does not speak of this traffic, otherwise whether it has HTTP rules for it.
fn rule_matches(
    rule: &Rule,
    other: Other<'_>,
    named: Option<&Endpoint>,
    proto: u8,
    port: u16,
) -> Option<bool> {
    let peer = match &rule.peers {
        Peers::Any => true,
        Peers::Of(list) => list.iter().any(|peer| peer_matches(peer, other)),
    };
    if !peer {
        return None;
    }
    let Some(parts) = &rule.ports else { return Some(false) };
    let mut found = None;
    for part in parts {
        for p in &part.ports {
            let hit = p.proto == proto
                && match &p.port {
                    PortSpec::Any => true,
                    PortSpec::Range(a, b) => *a <= port && port <= *b,
                    PortSpec::Name(name, end) => named.is_some_and(|e| {
                        e.named_ports.iter().any(|n| {
                            let end = if rule.direction == Direction::Ingress { *end } else { None };
                            let last = end.unwrap_or(0).max(n.port);
                            n.proto == proto && n.name == *name && n.port <= port && port <= last
                        })
                    }),
                };
            if hit {
                found = Some(found.unwrap_or(false) || (part.http.is_some() && proto == proto::TCP));
            }
        }
    }
    found
}

fn peer_matches(peer: &Peer, other: Other<'_>) -> bool {
    let outside = other.pod.is_none() && other.node.is_none();
    match peer {
        Peer::Labels(selector) => other.pod.is_some_and(|p| selector.matches(&p.identity_labels)),
        Peer::Cidr(block) => {
            let address = IpNet::from(other.address);
            let inside = block.cidr.contains(&address) && !block.except.iter().any(|e| e.contains(&address));
            inside && (outside || block.pods && other.pod.is_some())
        }
        Peer::Entity(entity) => match entity {
            Entity::All => true,
            Entity::World => outside,
            Entity::WorldIpv4 => outside && other.address.is_ipv4(),
            Entity::WorldIpv6 => outside && other.address.is_ipv6(),
            Entity::Cluster => !outside,
            Entity::Host => other.node == Some(true),
            Entity::RemoteNode => other.node == Some(false),
            _ => false,
        },
    }
}
