//! One fact each.

use abi::{IDENTITY_LOCAL_FIRST, PolicyKey, ipcache_flags, proto};
use ipnet::IpNet;
use serde_json::json;

use super::*;
use crate::compile::entries::{Claim, flatten};
use crate::precedence::{self, Class};
use crate::snapshot::{Backend, Service, ServicePort};

fn claim(proto: Option<u8>, ports: (u16, u16), class: Class, rule: u32) -> Claim {
    let precedence = precedence::of(model::Tier::Normal, 0, class);
    Claim { proto, ports, precedence, class, rule }
}

#[test]
fn flattening_takes_few_entries() {
    let tcp = Some(proto::TCP);
    let check = |claims: &[Claim], expected: usize| {
        assert_eq!(flatten(claims).len(), expected, "{claims:?}");
    };
    check(&[claim(None, (0, 65535), Class::Allow, 1)], 1);
    check(&[claim(tcp, (80, 80), Class::Allow, 1)], 1);
    check(&[claim(tcp, (8000, 8010), Class::Allow, 1)], 3);
    // A hole cut by a stronger rule costs one entry, not the rest of the range in pieces.
    check(&[claim(tcp, (0, 65535), Class::Allow, 1), claim(tcp, (8000, 8000), Class::Deny, 2)], 2);
    check(&[claim(None, (0, 65535), Class::Allow, 1), claim(tcp, (8000, 8000), Class::Deny, 2)], 2);
    // What a stronger rule covers whole leaves no trace.
    check(&[claim(tcp, (0, 65535), Class::Deny, 1), claim(tcp, (80, 80), Class::Allow, 2)], 1);
    check(&[claim(None, (0, 65535), Class::Deny, 1), claim(tcp, (80, 80), Class::Allow, 2)], 1);
    check(&[claim(tcp, (1, 65535), Class::Allow, 1)], 16);
}

#[test]
fn deny_on_a_range_beats_allow_on_one_port_of_it() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/server", &["10.0.0.1"], &[]);
    add_pod(&mut snapshot, "default/client", &["10.0.0.2"], &[]);
    add_cnp(
        &mut snapshot,
        "p",
        "server",
        json!({
            "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "8005", "protocol": "TCP"}]}]}],
            "ingressDeny": [{"toPorts": [{"ports": [{"port": "8000", "endPort": 8010, "protocol": "TCP"}]}]}],
        }),
    );
    assert!(!allows(&snapshot, Direction::Ingress, "default/server", "10.0.0.2", 8005));
}

#[test]
fn ip_blocks_match_pods_and_ciliums_blocks_do_not() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/server", &["10.0.0.1", "fd00::1"], &[]);
    add_pod(&mut snapshot, "default/in", &["10.1.0.5", "fd00::5"], &[]);
    add_pod(&mut snapshot, "default/except", &["10.1.0.77"], &[]);
    let peer = json!([{"ipBlock": {"cidr": "10.1.0.0/24", "except": ["10.1.0.64/26"]}}]);
    add_netpol(
        &mut snapshot,
        "np",
        json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": peer}]}),
    );
    let server = "default/server";
    assert!(allows(&snapshot, Direction::Ingress, server, "10.1.0.5", 80));
    assert!(!allows(&snapshot, Direction::Ingress, server, "fd00::5", 80), "its other address is not inside");
    assert!(!allows(&snapshot, Direction::Ingress, server, "10.1.0.77", 80));
    assert!(allows(&snapshot, Direction::Ingress, server, "10.1.0.9", 80), "no pod, but inside");
    let compiled = compile(&snapshot);
    let derived = compiled.lookup("10.1.0.5".parse().unwrap()).unwrap();
    assert!(derived.identity >= IDENTITY_LOCAL_FIRST);
    assert_eq!(compiled.identities[&derived.identity], snapshot.endpoints["default/in"].identity_labels);

    snapshot.policies.clear();
    add_cnp(&mut snapshot, "p", "server", json!({"ingress": [{"fromCIDR": ["10.1.0.0/24"]}]}));
    assert!(!allows(&snapshot, Direction::Ingress, server, "10.1.0.5", 80));
    assert!(allows(&snapshot, Direction::Ingress, server, "10.1.0.9", 80));
}

#[test]
fn the_node_reaches_its_pods_directly() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/server", &["10.0.0.1"], &[]);
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/a"}]}}]);
    add_cnp(&mut snapshot, "p", "server", json!({"ingress": [{"toPorts": ports}]}));
    let server = "default/server";
    assert!(allows(&snapshot, Direction::Ingress, server, "172.18.0.2", 80), "not redirected");
    assert!(!allows(&snapshot, Direction::Ingress, server, "172.18.0.3", 81), "another node is no host");
    add_cnp(&mut snapshot, "deny", "server", json!({"ingressDeny": [{"fromEntities": ["host"]}]}));
    assert!(!allows(&snapshot, Direction::Ingress, server, "172.18.0.2", 80), "a deny rule says so");
}

#[test]
fn a_refused_policy_denies_pods_but_not_probes() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/server", &["10.0.0.1"], &[]);
    add_pod(&mut snapshot, "default/client", &["10.0.0.2"], &[]);
    add_cnp(&mut snapshot, "ok", "server", json!({"ingress": [{"fromEndpoints": [{}]}]}));
    assert!(allows(&snapshot, Direction::Ingress, "default/server", "10.0.0.2", 80));
    let manifest = json!({
        "apiVersion": "cilium.io/v2", "kind": model::CNP, "metadata": {"name": "bad", "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"fromEndpoint": []}]},
    });
    let refusal = model::parse(model::CNP, &manifest).unwrap_err();
    add_object(&mut snapshot, model::refused_object(model::CNP, &manifest, &refusal));
    assert!(!allows(&snapshot, Direction::Ingress, "default/server", "10.0.0.2", 80));
    assert!(allows(&snapshot, Direction::Ingress, "default/server", "172.18.0.2", 80));
    assert!(allows(&snapshot, Direction::Egress, "default/server", "10.0.0.2", 80), "it speaks of ingress");
}

#[test]
fn addresses_belong_to_what_has_them() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/a", &["10.0.0.1"], &[]);
    let mut node = (*snapshot.nodes["n2"]).clone();
    node.pod_cidrs = vec!["10.0.1.0/24".parse().unwrap()];
    node.kube_apiserver = true;
    snapshot.nodes.insert("n2".into(), Arc::new(node));
    snapshot.settings.kube_apiserver = vec!["192.0.2.1".parse().unwrap()];
    let vip: IpAddr = "10.96.0.7".parse().unwrap();
    let service = Service { name: "s".into(), cluster_ips: vec![vip], ..Service::default() };
    snapshot.services.insert("default/s".into(), Arc::new(service));
    add_cnp(&mut snapshot, "p", "a", json!({"egress": [{"toCIDR": ["10.0.0.0/8", "10.0.1.128/25"]}]}));
    let compiled = compile(&snapshot);
    let check = |address: &str, identity: u32, flags: u32| {
        let found = compiled.lookup(address.parse().unwrap()).unwrap();
        assert_eq!((found.identity, found.flags), (identity, flags), "{address}");
    };
    check("203.0.113.1", abi::IDENTITY_WORLD_IPV4, 0);
    check("2001:db8::1", abi::IDENTITY_WORLD_IPV6, 0);
    check("172.18.0.2", abi::IDENTITY_HOST, ipcache_flags::LOCAL_NODE);
    check("172.18.0.3", abi::IDENTITY_KUBE_APISERVER, ipcache_flags::REMOTE_NODE);
    check("10.96.0.7", abi::IDENTITY_UNKNOWN, ipcache_flags::SERVICE_VIP);
    // In a pod range and no pod that is known: not of the world, whatever block a policy names.
    check("10.0.1.200", abi::IDENTITY_UNMANAGED, ipcache_flags::POD);
    check("10.0.0.1", snapshot.endpoints["default/a"].identity, ipcache_flags::POD);
    let block = compiled.lookup("10.200.0.1".parse().unwrap()).unwrap().identity;
    assert!(block >= IDENTITY_LOCAL_FIRST);
    assert!(compiled.identities[&block].contains_key("cidr:10.0.0.0/8"));
    let api = compiled.lookup("192.0.2.1".parse().unwrap()).unwrap().identity;
    assert!(compiled.identities[&api].contains_key("reserved:kube-apiserver"));
    assert!(compiled.ipcache.contains_key(&"0.0.0.0/0".parse::<IpNet>().unwrap()));
}

#[test]
fn pods_of_the_host_network_have_no_policy() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/a", &["172.18.0.2"], &[]);
    let mut pod = (*snapshot.endpoints["default/a"]).clone();
    pod.host_network = true;
    snapshot.endpoints.insert("default/a".into(), Arc::new(pod));
    add_cnp(&mut snapshot, "p", "a", json!({"ingress": [{}]}));
    let compiled = compile(&snapshot);
    assert!(compiled.endpoints.is_empty());
    let found = compiled.lookup("172.18.0.2".parse().unwrap()).unwrap();
    assert_eq!(found.identity, abi::IDENTITY_HOST);
}

fn service(snapshot: &mut Snapshot, target: u16) {
    let backend = |address: &str, ready| Backend {
        address: address.parse().unwrap(),
        port: target,
        ready,
        endpoint: Some("default/server".into()),
        hostname: None,
    };
    let backends = vec![backend("10.0.0.1", true), backend("fd00::1", true), backend("10.0.0.9", false)];
    let port = ServicePort { port: 80, proto: proto::TCP, backends, ..ServicePort::default() };
    let cluster_ips = vec!["10.96.0.7".parse().unwrap(), "fd00:96::7".parse().unwrap()];
    let service = Service {
        namespace: "default".into(),
        name: "s".into(),
        cluster_ips,
        ports: vec![port],
        ..Service::default()
    };
    snapshot.services.insert("default/s".into(), Arc::new(service));
}

#[test]
fn services_keep_their_vip_where_layer_7_may_come_in() {
    let base = || {
        let mut snapshot = cluster();
        let http = NamedPort { name: "http".into(), port: 8080, proto: proto::TCP };
        add_pod(&mut snapshot, "default/server", &["10.0.0.1", "fd00::1"], &[http]);
        add_pod(&mut snapshot, "default/client", &["10.0.0.2"], &[]);
        snapshot
    };
    let rules = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]);
    let keeps = |snapshot: &Snapshot| {
        let services = compile(snapshot).services;
        assert_eq!(services.len(), 2);
        assert_eq!(services[0].backends, ["10.0.0.1:8080".parse().unwrap()]);
        assert_eq!(services[1].backends, ["[fd00::1]:8080".parse().unwrap()]);
        assert_eq!(services[0].keep_vip, services[1].keep_vip);
        services[0].keep_vip
    };
    let check = |subject: &str, spec: Value, expected: bool| {
        let mut snapshot = base();
        service(&mut snapshot, 8080);
        add_cnp(&mut snapshot, "p", subject, spec.clone());
        assert_eq!(keeps(&snapshot), expected, "{subject} {spec}");
    };
    check("server", json!({"ingress": [{"toPorts": rules("8080")}]}), true);
    check("server", json!({"ingress": [{"toPorts": rules("http")}]}), true);
    check("server", json!({"ingress": [{"toPorts": rules("80")}]}), false);
    check("client", json!({"egress": [{"toPorts": rules("8080")}]}), true);
    check("client", json!({"egress": [{"toPorts": rules("http")}]}), true);
    check("client", json!({"ingress": [{"toPorts": rules("8080")}]}), false);
    check("nobody", json!({"egress": [{"toPorts": rules("8080")}]}), false);
    check("server", json!({"ingress": [{"toPorts": [{"ports": [{"port": "8080"}]}]}]}), false);
}

#[test]
fn too_large_a_policy_denies_and_raises_an_alarm() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/a", &["10.0.0.1"], &[]);
    // Odd ports cannot be joined.
    let ports: Vec<Value> =
        (0..32_000u32).map(|i| json!({"port": (2 * i + 1).to_string(), "protocol": "TCP"})).collect();
    let rules: Vec<Value> = ports.chunks(40).map(|ports| json!({"toPorts": [{"ports": ports}]})).collect();
    add_cnp(&mut snapshot, "p", "a", json!({"ingress": rules}));
    let compiled = compile(&snapshot);
    assert_eq!(compiled.alarms.len(), 1);
    assert!(compiled.endpoints[&1].entries.is_empty());
}

#[test]
fn every_key_is_well_formed() {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/a", &["10.0.0.1"], &[]);
    let range = json!([{"ports": [{"port": "1000", "endPort": 2000, "protocol": "TCP"}, {"port": "53"}]}]);
    add_cnp(
        &mut snapshot,
        "p",
        "a",
        json!({"ingress": [{"toPorts": range}], "egress": [{"toEntities": ["all"]}]}),
    );
    for key in compile(&snapshot).endpoints[&1].entries.keys() {
        assert!((PolicyKey::PREFIX_PEER..=PolicyKey::PREFIX_FULL).contains(&key.prefix_len));
        let port_bits = key.prefix_len.saturating_sub(PolicyKey::PREFIX_PROTO);
        let behind = u32::from(u16::MAX) >> port_bits;
        let port = u32::from(u16::from_be(key.port));
        assert_eq!(port & behind, 0, "{key:?} has bits behind its prefix");
    }
}
