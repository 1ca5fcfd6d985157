//! Objects into the snapshot.

use policy::snapshot::Service;

use super::*;

fn backends(published: &Published, service: &str) -> Vec<(String, u16, bool)> {
    let service = &published.snapshot.services[&format!("default/{service}")];
    let all = service.ports.iter().flat_map(|p| &p.backends);
    all.map(|b| (b.address.to_string(), b.port, b.ready)).collect()
}

fn vips(service: &Service) -> Vec<String> {
    service.cluster_ips.iter().map(ToString::to_string).collect()
}

fn get(published: &Published, service: &str) -> Arc<Service> {
    published.snapshot.services[&format!("default/{service}")].clone()
}

#[test]
fn attached_pods_become_endpoints_and_backends() {
    let files = [
        ("pods.yaml", format!("{}---\n{}", pod("w1", "web"), pod("w2", "web"))),
        ("s.yaml", service("s", "web", "")),
    ];
    let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let f = Fixture::new(&files);
    assert!(f.now().snapshot.endpoints.is_empty(), "no address, no endpoint");
    assert_eq!(f.now().pods.len(), 2);
    f.attach("w1", 7, "10.244.0.5");
    let generation = f.sources.registry().upsert(Registration {
        namespace: "default".to_owned(),
        pod: "w2".to_owned(),
        endpoint: 8,
        addresses: vec!["10.244.0.6".parse().expect("address"), "fd00::6".parse().expect("address")],
        ready: false,
    });
    let now = f.until("both", |p| p.registered >= generation);
    let w1 = &now.snapshot.endpoints["default/w1"];
    assert_eq!(
        (w1.id, w1.node.as_str(), w1.ready, w1.service_account.as_str()),
        (7, "here", true, "default")
    );
    assert_eq!(w1.identity, now.snapshot.endpoints["default/w2"].identity);
    assert_eq!(w1.identity_labels["k8s:app"], "web");
    assert_eq!(w1.named_ports[0].port, 8080);
    let want = [("10.244.0.5".to_owned(), 8080, true), ("10.244.0.6".to_owned(), 8080, false)];
    assert_eq!(backends(&now, "s"), want);
    let generation = f.sources.registry().set_ready("default", "w2", true);
    let now = f.until("ready", |p| p.registered >= generation);
    assert!(backends(&now, "s").iter().all(|b| b.2));
    f.sources.registry().remove(7);
    let now = f.until("w1 is gone", |p| !p.snapshot.endpoints.contains_key("default/w1"));
    assert_eq!(backends(&now, "s").len(), 1);
    f.remove("pods.yaml");
    let now = f.until("no manifest", |p| p.snapshot.endpoints.is_empty());
    assert!(tells(&now, &["Pod default/w2", "no such Pod object"]), "{:?}", texts(&now));
}

#[test]
fn a_namespace_label_changes_identities() {
    let namespace = |team: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{team: {team}}}}}\n")
    };
    let f = Fixture::new(&[("p.yaml", &pod("w", "web")), ("n.yaml", &namespace("a"))]);
    f.attach("w", 1, "10.244.0.5");
    let first = f.until("w", |p| p.snapshot.endpoints.len() == 1).snapshot.endpoints["default/w"].identity;
    f.write("n.yaml", &namespace("b"));
    let now = f.until("b", |p| p.snapshot.endpoints["default/w"].identity != first);
    let labels = &now.snapshot.endpoints["default/w"].identity_labels;
    assert_eq!(labels["k8s:io.cilium.k8s.namespace.labels.team"], "b");
    // The number is the same after a restart, with and without its manifest in between.
    f.write("n.yaml", &namespace("a"));
    f.until("a", |p| p.snapshot.endpoints["default/w"].identity == first);
}

#[test]
fn pods_of_other_nodes_and_of_the_nodes_network() {
    let nodes = "apiVersion: v1\nkind: Node\nmetadata: {name: there, labels: {zone: z}}\nspec: {podCIDRs: [10.244.1.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: Hostname, address: there}]}\n";
    let far = pod("far", "web").replace("spec:\n", "spec:\n  nodeName: there\n")
        + "status: {podIPs: [{ip: 10.244.1.9}], conditions: [{type: Ready, status: \"False\"}]}\n";
    let host = pod("host", "web").replace("spec:\n", "spec:\n  hostNetwork: true\n");
    let far_host = pod("fh", "web").replace("spec:\n", "spec:\n  hostNetwork: true\n  nodeName: there\n");
    let f = Fixture::new(&[
        ("n.yaml", nodes),
        ("far.yaml", &far),
        ("host.yaml", &host),
        ("fh.yaml", &far_host),
        ("s.yaml", &service("s", "web", "")),
    ]);
    let now = f.now();
    let node = &now.snapshot.nodes["there"];
    assert_eq!((node.addresses.len(), node.pod_cidrs.len(), node.labels["zone"].as_str()), (1, 1, "z"));
    assert_eq!(now.snapshot.nodes["here"].addresses[0].to_string(), "192.0.2.1");
    let check = |name: &str, id: u32, address: &str, identity: Option<u32>| {
        let e = &now.snapshot.endpoints[&format!("default/{name}")];
        assert_eq!((e.id, e.addresses[0].to_string().as_str()), (id, address), "{name}");
        assert_eq!(identity.is_none_or(|i| e.identity == i), identity.is_some() == e.host_network, "{name}");
    };
    check("host", 0, "192.0.2.1", Some(abi::IDENTITY_HOST));
    check("fh", 0, "192.0.2.2", Some(abi::IDENTITY_REMOTE_NODE));
    assert!(!now.snapshot.endpoints["default/far"].ready);
    assert_eq!(backends(&now, "s").len(), 3);
}

#[test]
fn one_address_has_one_owner() {
    let claims = |name: &str| pod(name, "web") + "status: {podIP: 10.244.0.9}\n";
    let f = Fixture::new(&[("a.yaml", &claims("a")), ("b.yaml", &claims("b"))]);
    let now = f.now();
    assert_eq!(now.snapshot.endpoints.keys().collect::<Vec<_>>(), ["default/a"]);
    assert!(tells(&now, &["b.yaml:1", "Pod default/b", "10.244.0.9 is the address of pod default/a"]));
    // An attached pod really has it.
    f.attach("b", 3, "10.244.0.9");
    let now = f.until("b", |p| p.snapshot.endpoints.contains_key("default/b"));
    assert_eq!(now.snapshot.endpoints.keys().collect::<Vec<_>>(), ["default/b"]);
    f.sources.registry().remove(3);
    f.until("a again", |p| p.snapshot.endpoints.contains_key("default/a"));
}

#[test]
fn cluster_addresses() {
    let f = Fixture::new(&[
        ("a.yaml", &service("a", "web", "")),
        ("b.yaml", &service("b", "web", "  ipFamilyPolicy: PreferDualStack\n")),
        ("c.yaml", &service("c", "web", "  clusterIP: 10.96.0.10\n")),
        ("d.yaml", &service("d", "web", "  clusterIP: None\n  ipFamilies: [IPv6]\n")),
        ("e.yaml", &service("e", "web", "  ipFamilies: [IPv6]\n")),
        ("f.yaml", &service("f", "web", "  clusterIP: 10.96.0.10\n")),
        (
            "x.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: ExternalName, externalName: example.org.}\n",
        ),
    ]);
    let now = f.now();
    let families = |name: &str| get(&now, name).cluster_ips.iter().map(|ip| ip.is_ipv4()).collect::<Vec<_>>();
    assert_eq!(families("a"), [true]);
    assert_eq!(families("b"), [true, false]);
    assert_eq!(vips(&get(&now, "c")), ["10.96.0.10"]);
    assert_eq!(families("d"), [true; 0]);
    assert_eq!(families("e"), [false]);
    assert_eq!(families("f"), [true; 0]);
    assert!(tells(
        &now,
        &["f.yaml:1", "Service default/f", "10.96.0.10 is the address of service default/c"]
    ));
    assert_eq!(get(&now, "x").external_name.as_deref(), Some("example.org"));
    // Kept over a restart, given up to who asks for it by name.
    let chosen = vips(&get(&now, "a"));
    let f = f.restarted();
    assert_eq!(vips(&get(&f.now(), "a")), chosen);
    f.write("g.yaml", &service("g", "web", &format!("  clusterIP: {}\n", chosen[0])));
    let now = f.until("g", |p| p.snapshot.services.contains_key("default/g"));
    assert_eq!(vips(&get(&now, "g")), chosen);
    assert_eq!(get(&now, "a").cluster_ips.len(), 1);
    assert_ne!(vips(&get(&now, "a")), chosen);
    f.remove("c.yaml");
    f.until("f has it", |p| vips(&get(p, "f")) == ["10.96.0.10"]);
}

#[test]
fn slices_come_before_selectors() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\nports: [{port: 9000}]\nendpoints:\n  - {addresses: [203.0.113.7]}\n  - {addresses: [203.0.113.8], conditions: {ready: false}, hostname: h, targetRef: {kind: Pod, name: w}}\n";
    let with_pod = pod("w", "web") + "status: {podIP: 10.244.0.9}\n";
    let f = Fixture::new(&[("s.yaml", &service("s", "web", "")), ("p.yaml", &with_pod), ("e.yaml", slice)]);
    let now = f.now();
    let want = [("203.0.113.7".to_owned(), 9000, true), ("203.0.113.8".to_owned(), 9000, false)];
    assert_eq!(backends(&now, "s"), want);
    let second = get(&now, "s").ports[0].backends[1].clone();
    assert_eq!((second.endpoint.as_deref(), second.hostname.as_deref()), (Some("default/w"), Some("h")));
    f.remove("e.yaml");
    let now = f.until("derived", |p| backends(p, "s").len() == 1);
    assert_eq!(backends(&now, "s"), [("10.244.0.9".to_owned(), 8080, true)]);
    f.write("e.yaml", &slice.replace("service-name: s", "other: s"));
    f.until("a message", |p| tells(p, &["EndpointSlice default/s-1", "belongs to no service"]));
}

#[test]
fn details_of_services() {
    let with_pod = pod("w", "web").replace("spec:\n", "spec:\n  hostname: zero\n  subdomain: a\n")
        + "status: {podIP: 10.244.0.9, conditions: [{type: Ready, status: \"False\"}]}\n";
    let f = Fixture::new(&[
        ("p.yaml", &with_pod),
        ("a.yaml", &service("a", "web", "  clusterIP: None\n  publishNotReadyAddresses: true\n")),
        ("b.yaml", &service("b", "web", "  sessionAffinity: ClientIP\n").replace("http}", "other}")),
        ("c.yaml", &service("c", "web", "").replace("http}", "9090, protocol: UDP}")),
        (
            "d.yaml",
            &service(
                "d",
                "nobody",
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n",
            ),
        ),
    ]);
    let now = f.now();
    assert_eq!(backends(&now, "a"), [("10.244.0.9".to_owned(), 8080, true)]);
    assert_eq!(get(&now, "a").ports[0].backends[0].hostname.as_deref(), Some("zero"));
    assert_eq!(backends(&now, "b"), [], "no port of that name");
    assert_eq!(get(&now, "b").affinity_seconds, 10_800);
    assert_eq!(backends(&now, "c"), [("10.244.0.9".to_owned(), 9090, false)]);
    assert_eq!(get(&now, "c").ports[0].proto, 17);
    assert_eq!((backends(&now, "d").len(), get(&now, "d").affinity_seconds), (0, 60));
}

#[test]
fn the_api_server_is_found() {
    let kubernetes = "apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: k, labels: {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nports: [{port: 6443}]\nendpoints: [{addresses: [192.0.2.1]}, {addresses: [198.51.100.1]}]\n";
    let f = Fixture::new(&[("k.yaml", kubernetes)]);
    let now = f.now();
    assert!(now.snapshot.nodes["here"].kube_apiserver);
    let elsewhere = &now.snapshot.settings.kube_apiserver;
    assert_eq!(elsewhere.iter().map(ToString::to_string).collect::<Vec<_>>(), ["198.51.100.1"]);
    f.remove("k.yaml");
    f.until("no more", |p| !p.snapshot.nodes["here"].kube_apiserver);
}
