//! Every denial says whose policy it was: default deny, an explicit denial, a refused policy; in the kernel and
//! in the proxy.

use std::time::Duration;

use conformance::host::run;
use conformance::http::record;
use conformance::{Node, Pod, eventually, host, manifests};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(15);

fn policy(name: &str, subject: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: test}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{app: {subject}}}}}\n  {spec}\n"
    )
}

/// Connects from `from` until a drop shows that `wanted` takes.
fn denied(node: &Node, from: &Pod, url: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a denial of {url}"), LIMIT, || {
        from.curl(&["-m", "1", url]);
        let flows = node.json(&["flows", "--verdict", "dropped", "--last", "10"]);
        let list = flows["flows"].as_array().cloned().unwrap_or_default();
        list.into_iter().rev().find(&wanted).ok_or_else(|| format!("{flows}\n{}", node.log()))
    })
}

fn named(name: &str, rule: &str) -> Value {
    json!({"kind": "CiliumNetworkPolicy", "namespace": "test", "name": name, "rule": rule})
}

#[test]
fn every_denial_says_whose_policy_it_was() {
    if !host::privileged("every_denial_says_whose_policy_it_was") {
        return;
    }
    let node = Node::builder("denials").file("http.yaml", manifests::HTTP).start();
    let (client, stranger) = (node.pod("test/client"), node.pod("test/stranger"));
    let server = node.pod("test/server");
    drop(record(server.listen((server.ipv4(), 8080))));
    let direct = format!("http://{}:8080/public/a", server.ipv4());

    // Default deny, in the kernel and, behind the Service, in the proxy.
    let by_kernel = |flow: &Value| flow["observedBy"] == "kernel" && flow["reason"] == "POLICY_DENIED";
    let flow = denied(&node, &stranger, &direct, by_kernel);
    assert_eq!(flow["defaultDeny"], json!([named("server", "spec.ingress[0]")]), "{flow}");
    assert_eq!(flow["direction"], "ingress", "{flow}");
    let nearest = flow["detail"].as_str().unwrap_or_default();
    assert!(nearest.contains("test/server") && nearest.contains("but not this peer"), "{flow}");
    let by_proxy = |flow: &Value| flow["observedBy"] == "proxy" && flow["reason"] == "POLICY_DENIED";
    let flow = denied(&node, &stranger, "http://10.96.1.1/public/a", by_proxy);
    assert_eq!(flow["defaultDeny"], json!([named("server", "spec.ingress[0]")]), "{flow}");

    // Of several the first by name, always; all of them in JSON.
    node.apply("also.yaml", &policy("also", "server", "ingress: [{toPorts: [{ports: [{port: \"1\"}]}]}]"));
    let two = |flow: &Value| flow["defaultDeny"].as_array().is_some_and(|all| all.len() == 2);
    let flow = denied(&node, &stranger, &direct, two);
    let both = json!([named("also", "spec.ingress[0]"), named("server", "spec.ingress[0]")]);
    assert_eq!(flow["defaultDeny"], both, "{flow}");
    let text = run(&mut node.heddle(&["flows", "--verdict", "dropped", "--last", "1"]));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let words = "default deny by CiliumNetworkPolicy test/also spec.ingress[0] (and 1 more): nearest: ";
    assert!(text.contains(words), "{text}");

    // The other direction.
    node.apply("out.yaml", &policy("out", "stranger", "egress: [{toEntities: [none]}]"));
    // A pod's first packets may have been dropped before its program knew it: of another reason.
    let outward = |flow: &Value| flow["direction"] == "egress" && flow["reason"] == "POLICY_DENIED";
    let flow = denied(&node, &stranger, &direct, outward);
    assert_eq!(flow["defaultDeny"], json!([named("out", "spec.egress[0]")]), "{flow}");
    node.remove("out.yaml");

    // An explicit denial.
    let deny = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]";
    node.apply("also.yaml", &policy("also", "server", deny));
    let flow = denied(&node, &client, &direct, |flow| flow["reason"] == "POLICY_DENY");
    assert_eq!(flow["policy"], named("also", "spec.ingressDeny[0]"), "{flow}");
    assert_eq!(flow.get("refused"), None, "{flow}");
    assert_eq!(flow.get("defaultDeny"), None, "{flow}");
    node.remove("also.yaml");

    // A policy that was refused.
    node.apply("broken.yaml", &policy("broken", "server", "ingress: [{fromEndpoint: [{}]}]"));
    let flow = denied(&node, &client, &direct, |flow| flow["refused"] == true);
    assert_eq!(flow["policy"]["name"], "broken", "{flow}");
    assert_eq!(flow["reason"], "POLICY_DENY", "{flow}");
}
