//! Manifests that several suites start a node with.

/// Pods client, stranger and server of namespace test; a Service before the server, and its policy with HTTP
/// rules, which comes last.
pub const HTTP: &str = include_str!("../tests/manifests/http.yaml");

/// Ports of the server that policy allows the client at layer 4 alone: TCP 9090, UDP 9091.
pub const PLAIN: &str = "
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: plain, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: client}}]
      toPorts: [{ports: [{port: \"9090\", protocol: TCP}, {port: \"9091\", protocol: UDP}]}]
";

/// [`HTTP`] without its policy, and the policy.
pub fn split() -> (&'static str, &'static str) {
    HTTP.split_at(HTTP.rfind("---\n").expect("a policy comes last"))
}
