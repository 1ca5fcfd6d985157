use serde_json::json;

use super::*;

fn case() -> Value {
    json!({
        "name": "c",
        "endpoints": [{"name": "a", "labels": {"app": "a"}}, {"name": "b", "labels": {"app": "b"}}],
        "policies": [{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"fromEndpoints": []}]}}],
        "queries": [{"from": "a", "to": "b", "port": 80, "want": "deny"}],
    })
}

#[test]
fn queries_pass_and_fail() {
    let mut document = case();
    assert!(run(&document).unwrap().passed());
    document["queries"][0]["want"] = json!("allow");
    let result = run(&document).unwrap();
    assert!(!result.passed());
    assert_eq!(result.queries[0].verdict, "deny");
    assert_eq!(result.queries[0].name, "a -> b TCP 80");
    document["queries"][0] = json!({"from": "a", "to": "nobody", "port": 80});
    let result = run(&document).unwrap();
    assert!(!result.passed(), "a query that cannot be answered fails");
    assert!(result.queries[0].error.as_ref().unwrap().contains("nobody"));
}

#[test]
fn refused_policies_are_listed_and_wanted_as_errors() {
    let mut document = case();
    document["policies"][0]["spec"]["ingress"][0] = json!({"fromEndpoint": []});
    document["queries"] = json!([
        {"from": "a", "to": "b", "port": 80, "want": "error"},
        {"from": "a", "to": "b", "port": 80, "want": "deny"},
        {"from": "b", "to": "a", "port": 80, "want": "allow"},
    ]);
    let result = run(&document).unwrap();
    assert!(result.passed(), "{result:?}");
    assert!(
        result.policies[0].refused.as_ref().unwrap().starts_with("spec.ingress[0].fromEndpoint: unknown")
    );
}

#[test]
fn mistakes_in_a_case_are_errors() {
    let check = |pointer: &str, key: &str, value: Value, expected: &str| {
        let mut document = case();
        document.pointer_mut(pointer).unwrap()[key] = value;
        let error = run(&document).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    };
    check("", "querys", json!([]), "querys");
    check("/queries/0", "wants", json!("deny"), "queries[0].wants");
    check("/queries/0", "protocol", json!("QUIC"), "queries[0].protocol");
    check("", "config", json!({"hostFirewall": true}), "config.hostFirewall is not supported");
    check("", "config", json!({"enforcement": "sometimes"}), "config.enforcement");
    check("/endpoints/1", "name", json!("a"), "default/a is there twice");
    check("/endpoints/1", "ips", json!(["10.0.0"]), "endpoints[1].ips[0]");
    check("/policies/0", "kind", json!("Pod"), "no kind of policy");
}

#[test]
fn enforcement_modes() {
    let verdict = |mode: &str, from: &str, to: &str| {
        let mut document = case();
        document["config"] = json!({"enforcement": mode});
        document["queries"] = json!([{"from": from, "to": to, "port": 80}]);
        run(&document).unwrap().queries.remove(0).verdict
    };
    assert_eq!(verdict("never", "a", "b"), "allow");
    assert_eq!(verdict("always", "b", "a"), "deny");
    assert_eq!(verdict("default", "b", "a"), "allow");
}
