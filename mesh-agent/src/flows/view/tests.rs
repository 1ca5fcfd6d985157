use policy::RuleRef;
use policy::snapshot::{Labels, Service};

use super::*;
use crate::flows::DEFAULT_DENY_MAX;

fn labels(list: &[(&str, &str)]) -> Arc<Labels> {
    Arc::new(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

fn view() -> View {
    let pod = |id, name: &str, ip: &str| {
        let addresses = vec![ip.parse().expect("an address")];
        let namespace = "shop".to_owned();
        (
            format!("shop/{name}"),
            Arc::new(Endpoint { id, namespace, name: name.into(), addresses, ..Endpoint::default() }),
        )
    };
    let service =
        Service { cluster_ips: vec!["10.96.0.1".parse().expect("an address")], ..Service::default() };
    let snapshot = Snapshot {
        node: "n1".into(),
        endpoints: [pod(1, "web", "10.0.0.1"), pod(2, "api", "10.0.0.2")].into(),
        services: [("shop/api".to_owned(), Arc::new(service))].into(),
        ..Snapshot::default()
    };
    let rule = RuleRef {
        kind: "CiliumNetworkPolicy".into(),
        namespace: "shop".into(),
        name: "api".into(),
        path: "spec.ingress[0]".into(),
    };
    let target = |identity| policy::IpcacheTarget { identity, ..Default::default() };
    let compiled = CompiledPolicy {
        identities: [(300, labels(&[("k8s:app", "web")])), (2, labels(&[("reserved:world", "")]))].into(),
        ipcache: [
            ("0.0.0.0/0".parse().expect("a net"), target(2)),
            ("10.0.0.1/32".parse().expect("a net"), target(300)),
        ]
        .into(),
        rules: [(7, rule)].into(),
        ..CompiledPolicy::default()
    };
    View::new(Arc::new(snapshot), Arc::new(compiled))
}

fn v4(octets: [u8; 4]) -> abi::Addr {
    abi::Addr::v4(octets)
}

#[test]
fn a_drop_has_names_labels_policy_and_reason() {
    let event = abi::Event {
        time_ns: 5,
        src: v4([10, 0, 0, 1]),
        dst: v4([10, 96, 0, 1]),
        src_identity: 300,
        src_endpoint: 1,
        rule: 7,
        revision: 9,
        sport: 40_000u16.to_be(),
        dport: 80u16.to_be(),
        kind: EventKind::Drop as u8,
        reason: DropReason::PolicyDeny as u8,
        direction: Direction::Egress as u8,
        proto: proto::TCP,
        tcp_flags: 0b10,
        ..abi::Event::default()
    };
    let flow = view().kernel_flow(&event, 1_000_000_000);
    assert_eq!(flow.time, "1970-01-01T00:00:01.000000005Z");
    assert_eq!(flow.verdict, FlowVerdict::Dropped);
    assert_eq!(
        (flow.reason.as_str(), flow.direction.as_str(), flow.protocol.as_str()),
        ("POLICY_DENY", "egress", "TCP")
    );
    assert_eq!(
        (flow.source.namespace.as_str(), flow.source.name.as_str(), flow.source.port),
        ("shop", "web", 40_000)
    );
    assert_eq!(flow.source.labels, ["k8s:app=web"]);
    assert_eq!(flow.destination.service, "shop/api");
    assert_eq!(flow.destination.labels, ["reserved:world"], "by the longest prefix");
    assert_eq!(
        flow.policy.as_ref().map(|p| (p.name.as_str(), p.rule.as_str())),
        Some(("api", "spec.ingress[0]"))
    );
    assert_eq!((flow.tcp_flags.as_str(), flow.revision, flow.node.as_str()), ("SYN", 9, "n1"));
}

#[test]
fn icmp_has_no_ports() {
    let event = abi::Event {
        dst: v4([8, 8, 8, 8]),
        proto: proto::ICMP,
        sport: 7,
        dport: 0x0800u16.to_be(),
        kind: EventKind::New as u8,
        ..abi::Event::default()
    };
    let flow = view().kernel_flow(&event, 0);
    assert_eq!(flow.icmp, Some(Icmp { kind: 8, code: 0 }));
    assert_eq!((flow.source.port, flow.destination.port, flow.source.ip), (0, 0, None));
    assert_eq!((flow.verdict, flow.reason.as_str()), (FlowVerdict::Forwarded, ""));
}

#[test]
fn a_request_to_a_service_names_the_chosen_pod() {
    let record = wire::Flow {
        source: "10.0.0.1:40000".into(),
        destination: "10.96.0.1:80".into(),
        backend: "10.0.0.2:8080".into(),
        src_endpoint: 1,
        src_identity: 300,
        reason: u32::from(DropReason::HttpDenied as u8),
        rule: 7,
        protocol: "HTTP/1.1".into(),
        method: "POST".into(),
        status: 403,
        ..wire::Flow::default()
    };
    let flow = view().proxy_flow(&record);
    assert_eq!((flow.verdict, flow.reason.as_str()), (FlowVerdict::Dropped, "HTTP_DENIED"));
    assert_eq!((flow.destination.service.as_str(), flow.destination.name.as_str()), ("shop/api", "api"));
    assert_eq!(flow.l7.as_ref().map(|l7| (l7.method.as_str(), l7.status)), Some(("POST", 403)));
    assert_eq!(flow.backend, "10.0.0.2:8080");
}

#[test]
fn a_default_deny_names_the_policies_behind_it() {
    let policies = (0..DEFAULT_DENY_MAX + 2).map(|number| {
        let name = format!("p{number:02}");
        let manifest = serde_json::json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "81"}]}]}]},
        });
        let policy = policy::model::parse("CiliumNetworkPolicy", &manifest).expect("valid");
        (policy.key(), Arc::new(policy))
    });
    let before = view();
    let mut snapshot = (*before.snapshot).clone();
    snapshot.policies = policies.collect();
    for pod in snapshot.endpoints.values_mut() {
        let of_namespace = labels(&[("k8s:io.kubernetes.pod.namespace", "shop")]);
        Arc::make_mut(pod).identity_labels = of_namespace;
    }
    let event = abi::Event {
        src: v4([10, 0, 0, 1]),
        dst: v4([10, 0, 0, 2]),
        src_endpoint: 1,
        dst_endpoint: 2,
        dport: 80u16.to_be(),
        kind: EventKind::Drop as u8,
        reason: DropReason::PolicyDenied as u8,
        direction: Direction::Ingress as u8,
        proto: proto::TCP,
        ..abi::Event::default()
    };
    let flow = View::new(Arc::new(snapshot), before.compiled.clone()).kernel_flow(&event, 0);
    let names: Vec<_> = flow.default_deny.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!((names.len(), names[0], names[15]), (DEFAULT_DENY_MAX, "p00", "p15"));
    assert_eq!((flow.default_deny_more, flow.policy, flow.refused), (2, None, false));
    assert_eq!(
        flow.detail,
        "nearest: CiliumNetworkPolicy shop/p00 spec.ingress[0] allows this peer, but only TCP 81, UDP 81, SCTP 81"
    );
}
