//! The DNS server's manifests come with the program and yield to the user's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

/// Of the server's Service.
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10)),
];

const THEIRS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: kube-dns, namespace: kube-system}\nspec:\n  selector: {app: theirs}\n  ports: [{name: dns, port: 53, protocol: UDP}]\n";

#[test]
fn the_dns_server_yields_to_another() {
    let (manifests, state) = (TempDir::new().expect("folder"), TempDir::new().expect("folder"));
    let heddle = Path::new("/usr/bin/heddle");
    let options = Options {
        manifests: manifests.path().to_owned(),
        state_dir: state.path().to_owned(),
        surrounding: surrounding(),
        built_in: launcher::dns::manifests(heddle, "x", &ADDRESSES, "cluster.local", &[]),
        ..Options::default()
    };
    let f = Fixture { sources: Sources::start(options).expect("starts"), manifests, state };
    let ours = |p: &Published| {
        let addresses = p.snapshot.services.get("kube-system/kube-dns").map(|s| s.cluster_ips.clone());
        let namespace = p.snapshot.namespaces.contains_key("kube-system");
        addresses == Some(ADDRESSES.to_vec())
            && p.pods.contains_key("kube-system/kube-dns")
            && namespace
            && p.problems.is_empty()
    };
    f.until("ours", ours);
    f.write("dns.yaml", THEIRS);
    f.until("theirs", |p| {
        let service = p.snapshot.services.get("kube-system/kube-dns");
        service.is_some_and(|s| s.cluster_ips != ADDRESSES) && p.pods.is_empty() && !tells(p, &["built in"])
    });
    f.remove("dns.yaml");
    f.until("ours again", ours);
    // A namespace of theirs is theirs; the server is ours still.
    f.write("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system, labels: {team: x}}\n");
    f.until("both", |p| {
        let namespace = p.snapshot.namespaces.get("kube-system");
        namespace.is_some_and(|n| n.labels.contains_key("team")) && ours(p)
    });
}
