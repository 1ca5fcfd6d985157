//! Who speaks on a connection that is open already, when labels change and when addresses change hands.

use std::net::SocketAddr;
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::{Node, eventually, host};

const MANIFESTS: &str = include_str!("manifests/http.yaml");
const LIMIT: Duration = Duration::from_secs(20);
/// A pod with the client's labels, and what pods of role `other` may do.
const TWIN: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: twin, namespace: test, labels: {app: client}}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: other, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: other}}]
      toPorts:
        - ports: [{port: \"8080\", protocol: TCP}]
          rules: {http: [{method: GET, path: /elsewhere}]}
";

#[test]
fn a_relabelled_pod_speaks_with_its_new_identity_on_an_open_connection() {
    if !host::privileged("a_relabelled_pod_speaks_with_its_new_identity_on_an_open_connection") {
        return;
    }
    let all = format!("{MANIFESTS}{TWIN}");
    let node = Node::builder("relabel").file("http.yaml", &all).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let twin = node.pod("test/twin");
    let ways = [SocketAddr::from((server.ipv4(), 8080)), SocketAddr::from(([10, 96, 1, 1], 80))];
    drop(record(server.listen((server.ipv4(), 8080))));
    let open = |pod: &conformance::Pod| ways.map(|to| Connection::new(pod.connect(to).unwrap()).unwrap());
    let (mut of_client, mut of_twin) = (open(&client), open(&twin));
    for connection in of_client.iter_mut().chain(&mut of_twin) {
        assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200, "{}", node.log());
    }
    let identity = |pod: &str| {
        let list = node.json(&["endpoint", "list"]);
        let all = list["endpoints"].as_array().cloned().unwrap_or_default();
        all.iter().find(|e| e["name"] == pod).map(|e| e["identity"].clone()).expect("listed")
    };
    let before = identity("client");
    assert_eq!(identity("twin"), before, "one label set, one identity");
    node.apply("http.yaml", &all.replacen("labels: {app: client}", "labels: {app: other}", 1));
    for connection in &mut of_client {
        eventually("the relabelled pod is denied", LIMIT, || {
            match connection.request("GET", "/public/a", &[]).map_err(|e| e.to_string())?.status {
                403 => Ok(()),
                other => Err(other.to_string()),
            }
        });
        assert_eq!(connection.request("GET", "/elsewhere", &[]).unwrap().status, 200);
    }
    for connection in &mut of_twin {
        assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200, "the twin is as it was");
    }
    // The kernel enforces a revision a moment before the agent shows it.
    let after = eventually("the list shows the new identity", LIMIT, || {
        let now = identity("client");
        if now == before { Err(now.to_string()) } else { Ok(now) }
    });
    assert_eq!(identity("twin"), before);
    eventually("denials name the new identity", LIMIT, || {
        let flows = node.json(&["flows", "--last", "1000"]);
        let list = flows["flows"].as_array().cloned().unwrap_or_default();
        let denied: Vec<_> = list.iter().filter(|flow| flow["reason"] == "HTTP_DENIED").collect();
        if denied.len() < ways.len() {
            return Err(flows.to_string());
        }
        assert!(denied.iter().all(|flow| flow["source"]["identity"] == after), "{denied:#?}");
        Ok(())
    });
}
