use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::identity::pod_labels;
use crate::snapshot::{Backend, Labels, Namespace, Node, Service, ServicePort};
use crate::{compile, model};

/// Pods `default/client` and `default/server` with both families, service `default/shop`, policies.
fn snapshot(policies: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot { revision: 1, node: "n1".into(), ..Snapshot::default() };
    let node = Node { addresses: vec!["172.18.0.2".parse().unwrap()], ..Node::default() };
    snapshot.nodes.insert("n1".into(), Arc::new(node));
    let namespace = Namespace { name: "default".into(), labels: Labels::new() };
    for (i, name) in ["client", "server"].into_iter().enumerate() {
        let own = Labels::from([("app".into(), name.into())]);
        let endpoint = Endpoint {
            id: i as u32 + 1,
            namespace: "default".into(),
            name: name.into(),
            identity: 1000 + i as u32,
            identity_labels: Arc::new(pod_labels("", &namespace, "", &own, &[])),
            addresses: vec![
                IpAddr::from([10, 0, 0, i as u8 + 1]),
                format!("fd00::{}", i + 1).parse().unwrap(),
            ],
            ..Endpoint::default()
        };
        snapshot.endpoints.insert(format!("default/{name}"), Arc::new(endpoint));
    }
    let backend = Backend {
        address: "10.0.0.2".parse().unwrap(),
        port: 8080,
        ready: true,
        endpoint: Some("default/server".into()),
        hostname: None,
    };
    let port = ServicePort { port: 80, proto: proto::TCP, backends: vec![backend], ..ServicePort::default() };
    let service = Service {
        namespace: "default".into(),
        name: "shop".into(),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![port],
        ..Service::default()
    };
    snapshot.services.insert("default/shop".into(), Arc::new(service));
    for (i, spec) in policies.iter().enumerate() {
        let manifest = json!({"apiVersion": "cilium.io/v2", "kind": model::CNP,
            "metadata": {"name": format!("p{i}"), "namespace": "default"}, "spec": spec});
        let object = model::parse(model::CNP, &manifest)
            .unwrap_or_else(|refusal| model::refused_object(model::CNP, &manifest, &refusal));
        snapshot.policies.insert(object.key(), Arc::new(object));
    }
    snapshot
}

fn ask(snapshot: &Snapshot, from: &str, to: &str, port: u16, http: Option<(&str, &str)>) -> Explanation {
    let http = http.map(|(method, path)| HttpQuery {
        method: method.into(),
        path: path.into(),
        host: "shop".into(),
        headers: Vec::new(),
    });
    let query = Query { from: from.into(), to: to.into(), proto: proto::TCP, port, http };
    explain(snapshot, &compile(snapshot), &query).unwrap()
}

fn server_rule(rule: Value) -> Value {
    json!({"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": [rule]})
}

fn get_public() -> Value {
    let ports = json!([{"port": "8080", "protocol": "TCP"}]);
    let rules = json!({"http": [{"method": "GET", "path": "/public/.*"}]});
    server_rule(json!({"fromEndpoints": [{}], "toPorts": [{"ports": ports, "rules": rules}]}))
}

#[test]
fn both_sides_are_asked() {
    let answer = ask(&snapshot(&[]), "client", "server", 80, None);
    assert_eq!(answer.outcome, Outcome::Allow);
    let (egress, ingress) = (answer.egress.unwrap(), answer.ingress.unwrap());
    assert_eq!((egress.endpoint.as_str(), ingress.endpoint.as_str()), ("default/client", "default/server"));
    assert_eq!(ingress.rule_ref.unwrap().name, "default-allow");
    let answer = ask(&snapshot(&[]), "client", "203.0.113.1", 80, None);
    assert!(answer.egress.is_some() && answer.ingress.is_none());
}

#[test]
fn requests_are_judged_and_the_rule_is_named() {
    let snapshot = snapshot(&[get_public()]);
    let answer = ask(&snapshot, "client", "server", 8080, Some(("GET", "/public/a")));
    assert_eq!((answer.outcome, answer.http_allowed), (Outcome::Redirect, Some(true)));
    let answer = ask(&snapshot, "client", "server", 8080, Some(("POST", "/public/a")));
    assert_eq!(answer.http_allowed, Some(false));
    let text = answer.to_string();
    assert!(text.starts_with("deny: default/client"), "{text}");
    assert!(text.contains("method \"POST\" does not match \"GET\""), "{text}");
    assert!(text.contains("CiliumNetworkPolicy default/p0 spec.ingress[0].toPorts[0]"), "{text}");
}

#[test]
fn a_services_address_stands_for_its_backend() {
    let snapshot = snapshot(&[get_public()]);
    let answer = ask(&snapshot, "client", "10.96.0.1", 80, Some(("GET", "/public/a")));
    assert_eq!((answer.port, answer.http_allowed), (8080, Some(true)));
    let hop = answer.service.unwrap();
    assert_eq!((hop.service.as_str(), hop.backends), ("default/shop", 1));
    assert_eq!(answer.to.endpoint.as_deref(), Some("default/server"));
    let query =
        Query { from: "client".into(), to: "10.96.0.1".into(), proto: proto::TCP, port: 81, http: None };
    let error = explain(&snapshot, &compile(&snapshot), &query).unwrap_err();
    assert_eq!(error, PartyError::NoBackend("10.96.0.1".into()));
}

#[test]
fn nearest_miss_of_layer_4() {
    let nearest = |rule: Value, from: &str, port: u16| {
        let answer = ask(&snapshot(&[server_rule(rule)]), from, "server", port, None);
        assert_eq!(answer.outcome, Outcome::Deny);
        let side = answer.ingress.unwrap();
        assert_eq!(side.reason, Some(DropReason::PolicyDenied));
        side.nearest.unwrap()
    };
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    let rule = json!({"fromEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": ports});
    let text = nearest(rule.clone(), "client", 81);
    assert!(text.ends_with("spec.ingress[0] allows this peer, but only TCP 80"), "{text}");
    let text = nearest(rule, "203.0.113.1", 80);
    assert!(text.ends_with("allows this port, but not this peer"), "{text}");
    let text = nearest(json!({"fromEndpoints": []}), "client", 80);
    assert!(text.ends_with("allows nobody"), "{text}");
}

#[test]
fn refusals_and_denials_are_told_apart() {
    let refused = server_rule(json!({"fromEndpoint": []}));
    let side = ask(&snapshot(&[refused]), "client", "server", 80, None).ingress.unwrap();
    assert!(side.refused && side.outcome == Outcome::Deny);
    let mut deny = server_rule(json!({}));
    deny["ingressDeny"] = json!([{"fromEndpoints": [{}]}]);
    let side = ask(&snapshot(&[deny]), "client", "server", 80, None).ingress.unwrap();
    assert!(!side.refused);
    assert_eq!(side.reason, Some(DropReason::PolicyDeny));
    assert_eq!(side.rule_ref.unwrap().path, "spec.ingressDeny[0]");
}

#[test]
fn families_and_names() {
    let snapshot = snapshot(&[]);
    let compiled = compile(&snapshot);
    let find = |from: &str, to: &str, proto: u8| {
        let query = Query { from: from.into(), to: to.into(), proto, port: 128, http: None };
        explain(&snapshot, &compiled, &query).map(|e| (e.from.address, e.to.address))
    };
    let v4: IpAddr = "10.0.0.1".parse().unwrap();
    let v6: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(find("client", "server", proto::TCP).unwrap().0, Some(v4));
    assert_eq!(find("client", "2001:db8::1", proto::TCP).unwrap().0, Some(v6));
    assert_eq!(find("default/client", "server", proto::ICMPV6).unwrap().0, Some(v6));
    assert_eq!(find("client", "nobody", proto::TCP), Err(PartyError::Unknown("nobody".into())));
    let error = find("client", "entity:galaxy", proto::TCP);
    assert_eq!(error, Err(PartyError::UnknownEntity("galaxy".into())));
    assert!(find("entity:host", "server", proto::TCP).is_ok());
}
