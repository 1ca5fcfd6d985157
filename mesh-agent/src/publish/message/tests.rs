use std::sync::Arc;

use abi::{Direction, PolicyEntry, PolicyKey, proto, verdict_code};
use policy::compiled::CompiledService;
use policy::snapshot::Endpoint;
use policy::{IpcacheTarget, RuleRef};

use super::*;

fn pod(id: u32, name: &str) -> (String, Arc<Endpoint>) {
    let endpoint =
        Endpoint { id, namespace: "shop".into(), name: name.into(), identity: 300, ..Endpoint::default() };
    (format!("shop/{name}"), Arc::new(endpoint))
}

fn service(backends: &[&str]) -> CompiledService {
    CompiledService {
        namespace: "shop".into(),
        name: "api".into(),
        port_name: "http".into(),
        vip: "10.96.0.1:80".parse().expect("an address"),
        proto: proto::TCP,
        keep_vip: true,
        affinity_seconds: 0,
        backends: backends.iter().map(|b| b.parse().expect("an address")).collect(),
    }
}

fn state(
    revision: u32,
    pods: &[(u32, &str)],
    verdict: u8,
    backends: &[&str],
    before: &ProxyState,
) -> ProxyState {
    let snapshot = Snapshot {
        node: "n1".into(),
        endpoints: pods.iter().map(|(id, name)| pod(*id, name)).collect(),
        ..Snapshot::default()
    };
    let key = PolicyKey::ports(300, Direction::Ingress, proto::TCP, 80, 16);
    let entries = [(key, PolicyEntry { precedence: 1, rule: 7, verdict, _pad: [0; 3] })].into();
    let policy = Arc::new(EndpointPolicy { entries, l7: Vec::new() });
    let rule = RuleRef { kind: "K".into(), namespace: "shop".into(), name: "p".into(), path: "spec".into() };
    let compiled = CompiledPolicy {
        revision,
        endpoints: pods.iter().map(|(id, _)| (*id, policy.clone())).collect(),
        ipcache: [(
            "10.0.0.2/32".parse().expect("a net"),
            IpcacheTarget { identity: 300, ..Default::default() },
        )]
        .into(),
        rules: [(7, rule)].into(),
        services: if backends.is_empty() { Vec::new() } else { vec![service(backends)] },
        ..CompiledPolicy::default()
    };
    ProxyState::new(&snapshot, &compiled, before)
}

#[test]
fn the_first_message_is_full_and_the_next_has_what_changed() {
    let nothing = ProxyState::default();
    let first = state(1, &[(1, "web"), (2, "api")], verdict_code::ALLOW, &["10.0.0.2:8080"], &nothing);
    let full = first.delta(None);
    assert!(full.full);
    assert_eq!(
        (full.endpoints.len(), full.services.len(), full.ipcache.len(), full.rules.len()),
        (2, 1, 1, 1)
    );
    assert_eq!(full.endpoints[0].entries[0].port, 80);
    assert_eq!(full.services[0].vip, "10.96.0.1:80");

    let second = state(2, &[(1, "web")], verdict_code::ALLOW, &["10.0.0.3:8080"], &first);
    let delta = second.delta(Some(&first));
    assert!(!delta.full);
    assert_eq!(delta.revision, 2);
    assert!(delta.endpoints.is_empty(), "web is as it was");
    assert_eq!(delta.removed_endpoints, [2]);
    assert_eq!(delta.services[0].backends, ["10.0.0.3:8080"]);
    assert!(delta.rules.is_empty() && delta.ipcache.is_empty() && delta.removed_services.is_empty());

    let third = state(3, &[(1, "web")], verdict_code::DENY, &[], &second);
    let delta = third.delta(Some(&second));
    assert_eq!(delta.endpoints[0].entries[0].verdict, u32::from(verdict_code::DENY));
    assert_eq!(delta.removed_services, ["10.96.0.1:80/6"]);
}

#[test]
fn what_goes_stays_until_the_kernel_has_forgotten_it() {
    let nothing = ProxyState::default();
    let before = state(1, &[(1, "web"), (2, "api")], verdict_code::ALLOW, &["10.0.0.2:8080"], &nothing);
    let after = state(2, &[(1, "web")], verdict_code::DENY, &[], &before);
    let both = after.with_remains_of(&before);
    let delta = both.delta(Some(&before));
    assert!(delta.removed_endpoints.is_empty() && delta.removed_services.is_empty());
    assert_eq!(delta.endpoints.len(), 1, "the stricter policy of web is there at once");
    let rest = after.delta(Some(&both));
    assert_eq!(rest.removed_endpoints, [2]);
    assert_eq!(rest.removed_services, ["10.96.0.1:80/6"]);
    assert!(rest.endpoints.is_empty());
}

#[test]
fn a_revision_alone_is_no_difference() {
    let nothing = ProxyState::default();
    let one = state(1, &[(1, "web")], verdict_code::ALLOW, &[], &nothing);
    let two = state(2, &[(1, "web")], verdict_code::ALLOW, &[], &one);
    assert!(one.equivalent(&two));
    assert!(!one.equivalent(&state(2, &[(1, "web")], verdict_code::DENY, &[], &one)));
}
