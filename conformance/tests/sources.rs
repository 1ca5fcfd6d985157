//! What happens to manifests that are wrong, change, or go away while a node runs.

use std::time::Duration;

use conformance::host::run;
use conformance::http::record;
use conformance::{Node, Pod, eventually, host, manifests};

const MANIFESTS: &str = conformance::manifests::HTTP;
const LIMIT: Duration = Duration::from_secs(15);

fn start(name: &str) -> (Node, Pod, Pod) {
    let node = Node::builder(name).file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    drop(record(server.listen((server.ipv4(), 8080))));
    drop(record(server.listen((server.ipv4(), 9090))));
    drop(record(server.listen((server.ipv4(), 9091))));
    (node, client, server)
}

/// The problem of which `heddle status` says `part` (an object or a file).
fn problem(node: &Node, part: &str) -> String {
    eventually(&format!("a problem with {part}"), LIMIT, || {
        let status = node.try_status()?;
        let all = status["problems"].as_array().cloned().unwrap_or_default();
        all.iter().map(ToString::to_string).find(|p| p.contains(part)).ok_or_else(|| status.to_string())
    })
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: test}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{app: server}}}}\n  {spec}\n"
    )
}

#[test]
fn a_refused_policy_denies_its_subjects_and_says_why() {
    if !host::privileged("a_refused_policy_denies_its_subjects_and_says_why") {
        return;
    }
    let (node, client, server) = start("refused");
    let plain = format!("http://{}:9090/", server.ipv4());
    let allow = policy("plain", "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: \"9090\"}]}]}]");
    node.apply("plain.yaml", &allow);
    client.becomes(&node, &plain, 200);
    // Never valid before: its subjects are denied in the direction that it speaks of.
    node.apply("typo.yaml", &policy("typo", "ingress: [{fromEndpoint: [{}]}]"));
    client.becomes(&node, &plain, 0);
    let text = problem(&node, "typo");
    let listed = node.json(&["policy", "list"])["policies"].to_string();
    assert!(listed.contains("\"inForce\":\"denial\""), "{listed}");
    assert!(text.contains("fromEndpoint") && text.contains("typo.yaml"), "{text}");
    node.remove("typo.yaml");
    client.becomes(&node, &plain, 200);
    // A valid one that becomes invalid: its last valid version stays in force.
    node.apply("plain.yaml", &allow.replace("9090", "90900"));
    let text = problem(&node, "plain");
    assert!(text.contains("toPorts"), "{text}");
    let of = |name: &str| {
        let list = node.json(&["policy", "list"]);
        let all = list["policies"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{name} is in {list}"))
    };
    let listed = of("plain");
    assert_eq!(listed["inForce"], "lastValid", "{listed}");
    assert!(listed["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{listed}");
    let table = run(&mut node.heddle(&["policy", "list"]));
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("REFUSED, its last valid version stays in force (since "), "{table}");
    // On new connections and after an unrelated change too: what it allowed passes, and nothing else.
    node.apply("other.yaml", &policy("other", "ingress: [{toPorts: [{ports: [{port: \"7070\"}]}]}]"));
    eventually("the other policy is in force", LIMIT, || {
        let list = node.json(&["policy", "list"]);
        if list.to_string().contains("\"other\"") { Ok(()) } else { Err(list.to_string()) }
    });
    for _ in 0..3 {
        assert_eq!(client.curl(&["-m", "2", &plain]).0, 200);
        let other = format!("http://{}:9091/", server.ipv4());
        assert_eq!(client.curl(&["-m", "1", &other]).0, 0, "still closed");
    }
    // A bad regex is refused, with the field.
    let rules =
        "ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{path: \"(\"}]}}]}]";
    node.apply("regex.yaml", &policy("regex", rules));
    let text = problem(&node, "regex");
    assert!(text.contains("path"), "{text}");
}

#[test]
fn half_a_file_changes_nothing_and_a_removed_one_takes_its_objects_along() {
    if !host::privileged("half_a_file_changes_nothing_and_a_removed_one_takes_its_objects_along") {
        return;
    }
    let (node, client, server) = start("half");
    let url = format!("http://{}:8080/private", server.ipv4());
    client.becomes(&node, &url, 403);
    node.apply("http.yaml", &MANIFESTS[..MANIFESTS.len() - 60]);
    problem(&node, "http.yaml");
    assert_eq!(client.curl(&["-m", "2", &url]).0, 403, "the last valid version stays");
    node.apply("http.yaml", MANIFESTS);
    eventually("the problem is gone", LIMIT, || match node.try_status()?["problems"].as_array() {
        Some(problems) if problems.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (objects, policy) = manifests::split();
    node.apply("policy.yaml", policy);
    node.apply("http.yaml", objects);
    client.becomes(&node, &url, 403);
    node.remove("policy.yaml");
    client.becomes(&node, &url, 200);
}

#[test]
fn two_objects_of_one_name_are_told_apart() {
    if !host::privileged("two_objects_of_one_name_are_told_apart") {
        return;
    }
    let (node, client, server) = start("twice");
    let twin = policy("server", "ingress: [{fromEndpoints: [{}]}]");
    node.apply("zzz.yaml", &twin);
    let text = problem(&node, "test/server");
    assert!(text.contains("http.yaml") && text.contains("zzz.yaml"), "names both places: {text}");
    let url = format!("http://{}:8080/private", server.ipv4());
    assert_eq!(client.curl(&["-m", "2", &url]).0, 403, "the first stays in force");
}
