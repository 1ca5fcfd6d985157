//! Services, and which of them need layer 7.

use std::net::SocketAddr;

use abi::{Direction, proto};

use super::Sourced;
use crate::compiled::CompiledService;
use crate::model::{PortSpec, Rule};
use crate::snapshot::{Backend, Endpoint, Labels, NamedPort, Snapshot};

pub(super) fn compile(snapshot: &Snapshot, rules: &[Sourced<'_>]) -> Vec<CompiledService> {
    let layer_7: Vec<&Rule> = rules.iter().map(|r| r.rule).filter(|r| has_http(r)).collect();
    // Egress rules of pods elsewhere do not matter: they redirect on their own nodes.
    let from_here: Vec<&&Rule> = layer_7
        .iter()
        .filter(|r| r.direction == Direction::Egress)
        .filter(|r| locals(snapshot).any(|e| r.subject.matches(&e.identity_labels)))
        .collect();
    let mut out = Vec::new();
    for service in snapshot.services.values() {
        for port in &service.ports {
            let needs = port.proto == proto::TCP
                && port.backends.iter().any(|b| redirected(snapshot, &layer_7, &from_here, b));
            for vip in &service.cluster_ips {
                let backends = port.backends.iter();
                let usable = |b: &&Backend| b.ready && b.address.is_ipv4() == vip.is_ipv4();
                out.push(CompiledService {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                    port_name: port.name.clone(),
                    vip: SocketAddr::new(*vip, port.port),
                    proto: port.proto,
                    keep_vip: needs,
                    affinity_seconds: service.affinity_seconds,
                    backends: backends.filter(usable).map(|b| SocketAddr::new(b.address, b.port)).collect(),
                });
            }
        }
    }
    out
}

fn locals(snapshot: &Snapshot) -> impl Iterator<Item = &Endpoint> {
    snapshot.endpoints.values().map(AsRef::as_ref).filter(|e| e.id != 0 && !e.host_network)
}

fn has_http(rule: &Rule) -> bool {
    rule.ports.iter().flatten().any(|p| p.http.is_some())
}

/// Whether traffic to a backend may need layer 7, whoever asks: peers are left out of account, so that a
/// service is rather redirected in vain than not at all.
fn redirected(snapshot: &Snapshot, layer_7: &[&Rule], from_here: &[&&Rule], backend: &Backend) -> bool {
    let endpoint = backend.endpoint.as_ref().and_then(|name| snapshot.endpoints.get(name));
    let endpoint = endpoint.filter(|e| !e.host_network);
    let named = endpoint.map_or(&[][..], |e| &e.named_ports);
    let ingress = endpoint.is_some_and(|e| ingress(layer_7, &e.identity_labels, named, backend.port));
    ingress || from_here.iter().any(|rule| covers(rule, named, backend.port))
}

fn ingress(layer_7: &[&Rule], labels: &Labels, named: &[NamedPort], port: u16) -> bool {
    layer_7
        .iter()
        .filter(|r| r.direction == Direction::Ingress && r.subject.matches(labels))
        .any(|rule| covers(rule, named, port))
}

fn covers(rule: &Rule, named: &[NamedPort], port: u16) -> bool {
    let parts = rule.ports.iter().flatten().filter(|p| p.http.is_some());
    parts.flat_map(|p| &p.ports).any(|p| match &p.port {
        PortSpec::Any => true,
        PortSpec::Range(first, last) => (*first..=*last).contains(&port),
        PortSpec::Name(name, end) => named.iter().any(|n| {
            n.proto == proto::TCP
                && n.name.eq_ignore_ascii_case(name)
                && (n.port..=end.unwrap_or(n.port).max(n.port)).contains(&port)
        }),
    })
}
