mod memo;
mod naive;
mod property;
mod small;

use std::net::IpAddr;
use std::sync::Arc;

use abi::{Decision, Direction, Verdict, decide};
use serde_json::{Value, json};

use crate::identity::{Identities, pod_labels};
use crate::model;
use crate::snapshot::{Endpoint, Labels, NamedPort, Namespace, Node, PolicyObject, Snapshot};
use crate::{CompiledPolicy, compile};

/// A cluster for tests: namespaces `default` and `far`, node `n1` (local) and `n2`.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot { revision: 1, node: "n1".into(), ..Snapshot::default() };
    for (name, address) in [("n1", "172.18.0.2"), ("n2", "172.18.0.3")] {
        let addresses = vec![address.parse().unwrap()];
        let node = Node { name: name.into(), addresses, ..Node::default() };
        snapshot.nodes.insert(name.into(), Arc::new(node));
    }
    for name in ["default", "far"] {
        let labels = Labels::from([("kubernetes.io/metadata.name".into(), name.into())]);
        snapshot.namespaces.insert(name.into(), Arc::new(Namespace { name: name.into(), labels }));
    }
    snapshot
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Adds a pod `namespace/name` with label `app: name`.
fn add_pod(snapshot: &mut Snapshot, path: &str, addresses: &[&str], named_ports: &[NamedPort]) {
    let (_, name) = path.split_once('/').unwrap();
    add_labelled(snapshot, path, &labels(&[("app", name)]), addresses, named_ports);
}

fn add_labelled(
    snapshot: &mut Snapshot,
    path: &str,
    own: &Labels,
    addresses: &[&str],
    named_ports: &[NamedPort],
) {
    let (namespace, name) = path.split_once('/').unwrap();
    let identity_labels = pod_labels("", &snapshot.namespaces[namespace], "", own, named_ports);
    let mut identities = Identities::default();
    for endpoint in snapshot.endpoints.values() {
        identities.assign(&endpoint.identity_labels).unwrap();
    }
    let endpoint = Endpoint {
        id: snapshot.endpoints.len() as u32 + 1,
        namespace: namespace.into(),
        name: name.into(),
        labels: own.clone(),
        identity: identities.assign(&identity_labels).unwrap(),
        identity_labels: Arc::new(identity_labels),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        named_ports: named_ports.to_vec(),
        node: "n1".into(),
        ready: true,
        ..Endpoint::default()
    };
    snapshot.endpoints.insert(path.into(), Arc::new(endpoint));
}

fn add_object(snapshot: &mut Snapshot, object: PolicyObject) {
    snapshot.policies.insert(object.key(), Arc::new(object));
}

/// Adds `default/NAME`, of pods with `app: SUBJECT`.
fn add_cnp(snapshot: &mut Snapshot, name: &str, subject: &str, spec: Value) {
    let mut spec = spec;
    spec["endpointSelector"] = json!({"matchLabels": {"app": subject}});
    let manifest = json!({
        "apiVersion": "cilium.io/v2", "kind": model::CNP,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    add_object(snapshot, model::parse(model::CNP, &manifest).unwrap());
}

fn add_netpol(snapshot: &mut Snapshot, name: &str, spec: Value) {
    let manifest = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": model::NETWORK_POLICY,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    add_object(snapshot, model::parse(model::NETWORK_POLICY, &manifest).unwrap());
}

/// What the policy of pod `of` says of a peer address.
fn ask(
    compiled: &CompiledPolicy,
    snapshot: &Snapshot,
    direction: Direction,
    of: &str,
    peer: &str,
    proto: u8,
    port: u16,
) -> Decision {
    let peer: IpAddr = peer.parse().unwrap();
    let identity = compiled.lookup(peer).unwrap().identity;
    let policy = &compiled.endpoints[&snapshot.endpoints[of].id];
    decide(&policy.entries, identity, direction, proto, port)
}

fn allows(snapshot: &Snapshot, direction: Direction, of: &str, peer: &str, port: u16) -> bool {
    let compiled = compile(snapshot);
    let decision = ask(&compiled, snapshot, direction, of, peer, abi::proto::TCP, port);
    decision.verdict == Verdict::Allow
}
