//! Kubernetes NetworkPolicy through the real path: selectors, named ports, and an ipBlock that covers pods by
//! their addresses (Cilium's CIDR rules do not; Kubernetes' do).

use conformance::http::record;
use conformance::{Node, host, manifests};

const MANIFESTS: &str = conformance::manifests::HTTP;

fn policy(from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: server, namespace: test}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  policyTypes: [Ingress]\n  \
         ingress: [{{from: [{from}], ports: [{{port: web, protocol: TCP}}]}}]\n"
    )
}

#[test]
fn selectors_and_blocks_admit_pods_by_label_and_by_address() {
    if !host::privileged("selectors_and_blocks_admit_pods_by_label_and_by_address") {
        return;
    }
    let node = Node::builder("netpol").file("pods.yaml", manifests::split().0).start();
    let (client, stranger) = (node.pod("test/client"), node.pod("test/stranger"));
    let server = node.pod("test/server");
    let mut urls = vec![];
    for port in [8080, 8081] {
        drop(record(server.listen((server.ipv4(), port))));
        drop(record(server.listen((server.ipv6(), port))));
        urls.push((
            format!("http://{}:{port}/", server.ipv4()),
            format!("http://[{}]:{port}/", server.ipv6()),
        ));
    }
    let [(v4, v6), (other_v4, _)] = &urls[..] else { unreachable!("two ports") };
    for pod in [&client, &stranger] {
        assert_eq!(pod.curl(&[v4]).0, 200, "no policy yet\n{}", node.log());
    }
    node.apply(
        "policy.yaml",
        &policy(
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: test}}, \
             podSelector: {matchLabels: {app: client}}}",
        ),
    );
    stranger.becomes(&node, v4, 0);
    client.becomes(&node, v4, 200);
    client.becomes(&node, v6, 200);
    assert_eq!(client.curl(&["-m", "1", other_v4]).0, 0, "only the port named web");
    // By address: the block holds both clients, its exception takes the first one out again.
    let blocks = format!(
        "{{ipBlock: {{cidr: 10.244.0.0/16, except: [{}/32]}}}}, \
         {{ipBlock: {{cidr: \"fd00:10:244::/64\", except: [\"{}/128\"]}}}}",
        client.ipv4(),
        client.ipv6()
    );
    node.apply("policy.yaml", &policy(&blocks));
    stranger.becomes(&node, v4, 200);
    stranger.becomes(&node, v6, 200);
    client.becomes(&node, v4, 0);
    client.becomes(&node, v6, 0);
    node.remove("policy.yaml");
    client.becomes(&node, v4, 200);
}

#[test]
fn workers_that_share_one_listener_serve_alike() {
    if !host::privileged("workers_that_share_one_listener_serve_alike") {
        return;
    }
    // What Linux before 6.6 needs: it cannot assign a packet to one of a group of listeners.
    let node = Node::builder("shared").file("http.yaml", MANIFESTS).arg("--proxy-listeners=shared").start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    drop(record(server.listen((server.ipv4(), 8080))));
    drop(record(server.listen((server.ipv6(), 8080))));
    for host in [server.ipv4().to_string(), format!("[{}]", server.ipv6())] {
        for _ in 0..20 {
            let (allowed, denied) =
                (format!("http://{host}:8080/public/a"), format!("http://{host}:8080/private"));
            assert_eq!(client.curl(&[&allowed]).0, 200, "{}", node.log());
            assert_eq!(client.curl(&[&denied]).0, 403);
        }
    }
}
