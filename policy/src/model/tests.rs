mod ports;

use abi::Direction;
use serde_json::{Value, json};

use super::*;
use crate::snapshot::Labels;

fn cnp(spec: Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
}

fn netpol(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": NETWORK_POLICY,
        "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
}

/// A CNP with one rule in `field`.
fn one(field: &str, rule: Value) -> Value {
    cnp(json!({"endpointSelector": {}, field: [rule]}))
}

fn rules(kind: &str, manifest: &Value) -> Vec<Rule> {
    parse(kind, manifest).unwrap_or_else(|refusal| panic!("{refusal}")).rules
}

/// The manifest is refused at `path` for a reason with `reason` in it.
fn refuses(kind: &str, manifest: &Value, path: &str, reason: &str) {
    match parse(kind, manifest) {
        Ok(_) => panic!("{manifest} is accepted"),
        Err(refusal) => {
            assert_eq!(refusal.path, path, "{refusal}");
            assert!(refusal.reason.contains(reason), "{refusal} lacks {reason:?}");
        }
    }
}

fn set(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn pod(namespace: &str, own: &[(&str, &str)]) -> Labels {
    let mut labels = set(own);
    labels.insert("k8s:io.kubernetes.pod.namespace".into(), namespace.into());
    labels.insert("k8s:io.cilium.k8s.policy.cluster".into(), "default".into());
    labels
}

#[test]
fn fields_that_do_not_exist_are_refused() {
    refuses(
        CNP,
        &one("ingress", json!({"fromEndpoint": []})),
        "spec.ingress[0].fromEndpoint",
        "unknown field",
    );
    refuses(
        CNP,
        &one("ingress", json!({"toEndpoints": [{}]})),
        "spec.ingress[0].toEndpoints",
        "ingress rule",
    );
    refuses(CNP, &one("egress", json!({"fromCIDR": []})), "spec.egress[0].fromCIDR", "egress rule");
    let ports = json!({"toPorts": [{"ports": [{"port": "80", "protocl": "TCP"}]}]});
    refuses(CNP, &one("ingress", ports), "spec.ingress[0].toPorts[0].ports[0].protocl", "unknown field");
    let mut top = one("ingress", json!({}));
    top["description"] = json!("old place");
    refuses(CNP, &top, "description", "unknown field");
    let np = netpol(json!({"podSelector": {}, "ingres": []}));
    refuses(NETWORK_POLICY, &np, "spec.ingres", "unknown field");
    let np = netpol(json!({"podSelector": {}, "ingress": [{"to": []}]}));
    refuses(NETWORK_POLICY, &np, "spec.ingress[0].to", "from");
}

#[test]
fn nulls_are_refused() {
    refuses(
        CNP,
        &one("ingress", json!({"fromEndpoints": null})),
        "spec.ingress[0].fromEndpoints",
        "no value",
    );
    refuses(NETWORK_POLICY, &netpol(json!({"podSelector": null})), "spec.podSelector", "no value");
    let mut manifest = one("ingress", json!({}));
    manifest["metadata"]["creationTimestamp"] = Value::Null;
    assert!(parse(CNP, &manifest).is_ok());
}

#[test]
fn objects_need_version_name_selector_and_rules() {
    let mut manifest = one("ingress", json!({}));
    manifest["apiVersion"] = json!("cilium.io/v1");
    refuses(CNP, &manifest, "apiVersion", "cilium.io/v2");
    let mut manifest = one("ingress", json!({}));
    manifest["metadata"] = json!({});
    refuses(CNP, &manifest, "metadata.name", "given");
    refuses(CNP, &cnp(json!({"ingress": [{}]})), "spec", "endpointSelector");
    refuses(CNP, &cnp(json!({"endpointSelector": {}, "ingress": []})), "spec", "at least one");
    let both = cnp(json!({"endpointSelector": {}, "nodeSelector": {}, "ingress": [{}]}));
    refuses(CNP, &both, "spec", "exclude");
    refuses("Pod", &manifest, "kind", "no kind of policy");
    let manifest = json!({"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": {"name": "p"}});
    refuses(CNP, &manifest, "spec", "must be given");
}

#[test]
fn peers_that_are_absent_empty_or_everybody() {
    let peers = |rule: Value| rules(CNP, &one("ingress", rule)).remove(0).peers;
    let ports = json!([{"ports": [{"port": "80"}]}]);
    assert_eq!(peers(json!({"toPorts": ports})), Peers::Any);
    assert_eq!(peers(json!({"toPorts": [{}]})), Peers::Any);
    assert_eq!(peers(json!({})), Peers::Of(Vec::new()), "neither peers nor ports: nobody");
    for field in ["fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities"] {
        let rule = json!({field: [], "toPorts": ports});
        assert_eq!(peers(rule), Peers::Of(Vec::new()), "{field}: []");
    }
    let Peers::Of(list) = peers(json!({"fromEndpoints": [{}]})) else { panic!("anybody") };
    let [Peer::Labels(selector)] = list.as_slice() else { panic!("{list:?}") };
    assert!(selector.matches(&pod("shop", &[])));
    assert!(!selector.matches(&pod("far", &[])));
    assert!(!selector.matches(&set(&[("reserved:host", "")])));
    let rule = json!({"fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"]});
    refuses(CNP, &one("ingress", rule), "spec.ingress[0].fromCIDR", "together with fromEndpoints");
    let np = rules(NETWORK_POLICY, &netpol(json!({"podSelector": {}, "ingress": [{"from": []}]})));
    assert_eq!(np[0].peers, Peers::Any, "a NetworkPolicy means anybody");
}

#[test]
fn peers_are_of_the_policys_namespace_unless_they_say_otherwise() {
    let meant = |kind: &str, selector: Value, labels: &Labels| {
        let mut manifest = one("egress", json!({"toEndpoints": [selector]}));
        if kind == CCNP {
            manifest["metadata"] = json!({"name": "p"});
        }
        let Peers::Of(list) = rules(kind, &manifest).remove(0).peers else { panic!("anybody") };
        let [Peer::Labels(selector)] = list.as_slice() else { panic!("{list:?}") };
        selector.matches(labels)
    };
    let far = pod("far", &[("k8s:app", "a"), ("k8s:io.cilium.k8s.namespace.labels.team", "red")]);
    for (selector, expected) in [
        (json!({"matchLabels": {"app": "a"}}), false),
        (json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "far"}}), true),
        (json!({"matchLabels": {"io.kubernetes.pod.namespace": "far"}}), true),
        (json!({"matchLabels": {"any:io.kubernetes.pod.namespace": "far"}}), true),
        (json!({"matchLabels": {"io.kubernetes.pod.namespace": "near"}}), false),
        (json!({"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "red"}}), true),
        (json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["b"]}]}), false),
    ] {
        assert_eq!(meant(CNP, selector.clone(), &far), expected, "{selector}");
    }
    assert!(meant(CCNP, json!({}), &far));
    assert!(meant(CCNP, json!({"matchLabels": {"app": "a"}}), &far));
    let host = set(&[("reserved:host", "")]);
    assert!(!meant(CCNP, json!({}), &host), "pods only");
    assert!(meant(CNP, json!({"matchLabels": {"reserved:host": ""}}), &host));
}

#[test]
fn a_subject_stays_in_its_namespace() {
    let subject = |selector: Value| {
        let manifest = cnp(json!({"endpointSelector": selector, "ingress": [{}]}));
        rules(CNP, &manifest).remove(0).subject
    };
    let far = pod("far", &[("k8s:app", "a")]);
    let own = pod("shop", &[("k8s:app", "a")]);
    for selector in [json!({}), json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "far"}})] {
        assert!(subject(selector.clone()).matches(&own), "{selector}");
        assert!(!subject(selector.clone()).matches(&far), "{selector}");
    }
}

#[test]
fn expressions_on_labels() {
    let check = |expression: Value, own: &[(&str, &str)], expected: bool| {
        let manifest = cnp(json!({"endpointSelector": {"matchExpressions": [expression]}, "ingress": [{}]}));
        let subject = rules(CNP, &manifest).remove(0).subject;
        assert_eq!(subject.matches(&pod("shop", own)), expected, "{expression} {own:?}");
    };
    let with = |operator: &str| json!({"key": "env", "operator": operator, "values": ["a", "b"]});
    let bare = |operator: &str| json!({"key": "env", "operator": operator});
    check(with("In"), &[("k8s:env", "b")], true);
    check(with("In"), &[("k8s:env", "c")], false);
    check(with("In"), &[], false);
    check(with("NotIn"), &[("k8s:env", "b")], false);
    check(with("NotIn"), &[], true);
    check(bare("Exists"), &[("k8s:env", "")], true);
    check(bare("DoesNotExist"), &[("k8s:env", "")], false);
    check(bare("Exists"), &[("gen:env", "")], true);
    let selector = |s: Value| cnp(json!({"endpointSelector": s, "ingress": [{}]}));
    let at = "spec.endpointSelector.matchExpressions[0]";
    let bad = |e: Value| selector(json!({"matchExpressions": [e]}));
    refuses(CNP, &bad(bare("In")), &format!("{at}.values"), "at least one");
    refuses(CNP, &bad(with("Exists")), &format!("{at}.values"), "no values");
    refuses(CNP, &bad(bare("Gt")), &format!("{at}.operator"), "not one of");
    let bad = |key: &str, value: &str| selector(json!({"matchLabels": {key: value}}));
    let at = |key: &str| format!("spec.endpointSelector.matchLabels[{key:?}]");
    refuses(CNP, &bad("app", "a b"), &at("app"), "label value");
    refuses(CNP, &bad("-app", "a"), &at("-app"), "label key");
    refuses(CNP, &bad("k8:app", "a"), &at("k8:app"), "unknown label source");
    refuses(CNP, &bad("cidr:10.0.0.0/8", ""), &at("cidr:10.0.0.0/8"), "fromCIDR");
}

#[test]
fn what_is_not_enforced_is_refused_but_mistakes_come_first() {
    let not_yet = "not yet enforced by this version; the policy is refused so that nothing is silently open";
    for (field, rule) in [
        ("toFQDNs", json!({"toFQDNs": [{"matchName": "a.com"}]})),
        ("toServices", json!({"toServices": [{"k8sService": {"serviceName": "s"}}]})),
        ("toNodes", json!({"toNodes": [{}]})),
        ("toGroups", json!({"toGroups": [{"aws": {"region": "x"}}]})),
        ("authentication.mode", json!({"toEndpoints": [{}], "authentication": {"mode": "required"}})),
        (
            "toPorts[0].serverNames",
            json!({"toPorts": [{"ports": [{"port": "443"}], "serverNames": ["*.a.com"]}]}),
        ),
        (
            "toPorts[0].terminatingTLS",
            json!({"toPorts": [{"ports": [], "terminatingTLS": {"secret": {"name": "s"}}}]}),
        ),
        (
            "toPorts[0].listener",
            json!({"toPorts": [{"listener": {"name": "l", "envoyConfig": {"name": "e"}}}]}),
        ),
    ] {
        refuses(CNP, &one("egress", rule), &format!("spec.egress[0].{field}"), not_yet);
    }
    let manifest = cnp(json!({
        "endpointSelector": {},
        "egress": [{"toFQDNs": [{"matchName": "a.com"}]}, {"toCIDR": ["bad"]}],
    }));
    refuses(CNP, &manifest, "spec.egress[1].toCIDR[0]", "not a block");
    let rule = json!({"toEndpoints": [{}], "authentication": {"mode": "disabled"}});
    assert!(parse(CNP, &one("egress", rule)).is_ok());
    let manifest = json!({"apiVersion": "cilium.io/v2", "kind": CCNP, "metadata": {"name": "p"},
        "spec": {"nodeSelector": {}, "ingress": [{}]}});
    refuses(CCNP, &manifest, "spec.nodeSelector", not_yet);
}

#[test]
fn deny_rules_take_ports_only() {
    let with = |field: &str, value: Value| {
        one("ingressDeny", json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], field: value}]}))
    };
    for (field, value) in [("rules", json!({"http": [{}]})), ("serverNames", json!(["a.com"]))] {
        refuses(CNP, &with(field, value), &format!("spec.ingressDeny[0].toPorts[0].{field}"), "ports only");
    }
    let fqdn = json!({"toFQDNs": [{"matchName": "a.com"}]});
    refuses(CNP, &one("egressDeny", fqdn), "spec.egressDeny[0].toFQDNs", "deny rule");
}

#[test]
fn default_deny_by_direction() {
    let manifest = cnp(json!({
        "endpointSelector": {}, "enableDefaultDeny": {"ingress": false},
        "ingress": [{}], "egress": [{}], "egressDeny": [{}],
    }));
    let rules = rules(CNP, &manifest);
    let list: Vec<(Direction, Action, bool)> =
        rules.iter().map(|r| (r.direction, r.action, r.default_deny)).collect();
    assert_eq!(
        list,
        [
            (Direction::Ingress, Action::Allow, false),
            (Direction::Egress, Action::Allow, true),
            (Direction::Egress, Action::Deny, true),
        ]
    );
}

#[test]
fn specs_are_rules_too() {
    let mut manifest = one("ingress", json!({}));
    manifest["specs"] = json!([{"endpointSelector": {}, "egress": [{}]}]);
    let paths: Vec<String> = rules(CNP, &manifest).into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["spec.ingress[0]", "specs[0].egress[0]"]);
    manifest["specs"][0]["egress"][0]["toCIDR"] = json!(["x"]);
    refuses(CNP, &manifest, "specs[0].egress[0].toCIDR[0]", "not a block");
}

#[test]
fn refused_objects_deny_their_subjects() {
    let check = |kind: &str, manifest: Value, own: &[(&str, &str)], expected: &[Direction]| {
        let refusal = parse(kind, &manifest).unwrap_err();
        let object = refused_object(kind, &manifest, &refusal);
        assert_eq!(object.refused, Some(refusal.message()));
        let labels = pod("shop", own);
        let denied: Vec<Direction> =
            object.rules.iter().filter(|r| r.subject.matches(&labels)).map(|r| r.direction).collect();
        assert_eq!(denied, expected, "{manifest} for {own:?}");
        assert!(object.rules.iter().all(|r| r.action == Action::Refuse && r.peers == Peers::Any));
        if kind != CCNP {
            assert!(!object.rules.iter().any(|r| r.subject.matches(&pod("far", own))));
        }
    };
    use Direction::{Egress, Ingress};
    let (a, b) = (&[("k8s:app", "a")][..], &[("k8s:app", "b")][..]);
    let selector = json!({"matchLabels": {"app": "a"}});
    let bad = json!([{"fromEndpoint": []}]);
    let spec = json!({"endpointSelector": selector, "ingress": bad});
    check(CNP, cnp(spec.clone()), a, &[Ingress]);
    check(CNP, cnp(spec), b, &[]);
    check(CNP, cnp(json!({"endpointSelector": selector, "egressDeny": bad})), a, &[Egress]);
    check(CNP, cnp(json!({"endpointSelector": selector, "ingres": []})), a, &[Ingress, Egress]);
    check(CNP, cnp(json!({"endpointSelector": selector})), a, &[Ingress, Egress]);
    let unreadable = json!({"endpointSelector": {"matchLabel": {}}, "ingress": [{}]});
    check(CNP, cnp(unreadable.clone()), b, &[Ingress]);
    check(CNP, json!({"kind": CNP, "metadata": {"name": "p", "namespace": "shop"}}), b, &[Ingress, Egress]);
    let mut clusterwide = cnp(unreadable);
    clusterwide["metadata"] = json!({"name": "p"});
    check(CCNP, clusterwide, b, &[]);
    check(
        NETWORK_POLICY,
        netpol(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": 1})),
        a,
        &[Egress],
    );
    check(NETWORK_POLICY, netpol(json!({"podSelector": {}, "ingres": []})), a, &[Ingress, Egress]);
}
