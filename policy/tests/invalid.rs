//! What becomes of manifests that are wrong: `invalid.yaml` beside the expected outcome of each. Those were
//! judged from the documented semantics; `cilium` in an outcome tells where Cilium does not refuse.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use abi::{Direction, Verdict};
use policy::identity::{self, Identities};
use policy::model::{self, Refusal};
use policy::snapshot::{Endpoint, Namespace, Node, PolicyObject};
use policy::{CompiledPolicy, Snapshot};
use serde::Deserialize;
use serde_json::Value;

/// What has to become of one manifest.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    /// The word `accepted`.
    Accepted(String),
    Refused(Expected),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// The field that the refusal names.
    path: String,
    /// What the message holds.
    reason: String,
    /// The directions in which the subjects are denied.
    denies: Vec<String>,
    #[serde(default)]
    subjects: Subjects,
    /// What Cilium does instead of refusing it.
    #[allow(dead_code)]
    cilium: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Subjects {
    /// Pods of the namespace with `app: a`.
    #[default]
    Selected,
    Namespace,
    Nobody,
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    std::fs::read_to_string(path).expect("a committed file")
}

/// Every manifest by name with its outcome; the documents of the file are JSON between lines of `---`.
fn items() -> Vec<(String, Value, Outcome)> {
    let mut outcomes: BTreeMap<String, Outcome> =
        serde_json::from_str(&read("invalid.expected.json")).expect("outcomes by name");
    let text = read("invalid.yaml");
    let documents = text.lines().filter(|line| !line.starts_with('#') && *line != "---");
    let items = documents.map(|line| {
        let manifest: Value = serde_json::from_str(line).expect("a manifest per line");
        let name = manifest["metadata"]["name"].as_str().expect("a name").to_owned();
        let outcome = outcomes.remove(&name).unwrap_or_else(|| panic!("{name} has no outcome"));
        (name, manifest, outcome)
    });
    let items = items.collect();
    assert!(outcomes.is_empty(), "outcomes without a manifest: {outcomes:?}");
    items
}

fn parse(manifest: &Value) -> Result<PolicyObject, Refusal> {
    model::parse(manifest["kind"].as_str().expect("a kind"), manifest)
}

#[test]
fn each_is_accepted_or_refused_with_field_and_reason() {
    let mut wrong = Vec::new();
    for (name, manifest, outcome) in items() {
        match (outcome, parse(&manifest)) {
            (Outcome::Accepted(word), Ok(_)) if word == "accepted" => {}
            (Outcome::Refused(expected), Err(refusal)) => {
                if refusal.path != expected.path || !refusal.reason.contains(&expected.reason) {
                    wrong.push(format!("{name}: {refusal}\n    expected {expected:?}"));
                }
            }
            (outcome, got) => wrong.push(format!("{name}: {got:?}\n    expected {outcome:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} outcomes differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_was_refused_denies_its_subjects_and_nobody_else() {
    for (name, manifest, outcome) in items() {
        let (Outcome::Refused(expected), Err(refusal)) = (outcome, parse(&manifest)) else { continue };
        let kind = manifest["kind"].as_str().expect("a kind");
        let object = model::refused_object(kind, &manifest, &refusal);
        assert!(object.refused.is_some(), "{name}");
        let (snapshot, compiled) = cluster(object);
        for endpoint in snapshot.endpoints.values() {
            let subject = match expected.subjects {
                Subjects::Selected => endpoint.namespace == "default" && endpoint.labels["app"] == "a",
                Subjects::Namespace => endpoint.namespace == "default",
                Subjects::Nobody => false,
            };
            for (word, direction) in [("ingress", Direction::Ingress), ("egress", Direction::Egress)] {
                let denied = denied(&compiled, &snapshot, endpoint, direction);
                let who = format!("{name}: {word} of {}/{}", endpoint.namespace, endpoint.name);
                // Where a field could not be read, more directions may be denied than it spoke of.
                if subject && expected.denies.iter().any(|d| d == word) {
                    assert!(denied, "{who} is not denied");
                }
                assert!(subject || !denied, "{who} is denied");
            }
        }
    }
}

/// Whether everything of every other pod is denied; it must be that or nothing.
fn denied(compiled: &CompiledPolicy, snapshot: &Snapshot, endpoint: &Endpoint, direction: Direction) -> bool {
    let map = &compiled.endpoints[&endpoint.id].entries;
    let peers = snapshot.endpoints.values().filter(|peer| peer.id != endpoint.id);
    let verdicts = peers.flat_map(|peer| {
        [(abi::proto::TCP, 80), (abi::proto::UDP, 53), (abi::proto::ICMP, 8)].map(|(proto, port)| {
            matches!(abi::decide(map, peer.identity, direction, proto, port).verdict, Verdict::Drop(_))
        })
    });
    let verdicts: Vec<bool> = verdicts.collect();
    assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{}: {verdicts:?}", endpoint.name);
    verdicts[0]
}

/// Three pods, `a` and `b` in `default` and another `a` elsewhere, under one policy.
fn cluster(object: PolicyObject) -> (Snapshot, CompiledPolicy) {
    let mut snapshot = Snapshot { revision: 1, node: "n1".to_owned(), ..Snapshot::default() };
    let node = Node { name: "n1".to_owned(), ..Node::default() };
    snapshot.nodes.insert(node.name.clone(), Arc::new(node));
    let mut identities = Identities::default();
    for (i, (namespace, name)) in [("default", "a"), ("default", "b"), ("far", "a")].into_iter().enumerate() {
        let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
        let metadata = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        let space = Namespace { name: namespace.to_owned(), labels: BTreeMap::from([metadata]) };
        let identity_labels = identity::pod_labels("", &space, "", &labels, &[]);
        let endpoint = Endpoint {
            id: i as u32 + 1,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identities.assign(&identity_labels).expect("a free identity"),
            identity_labels: Arc::new(identity_labels),
            labels,
            addresses: vec![format!("10.244.0.{}", i + 1).parse().expect("an address")],
            node: "n1".to_owned(),
            ready: true,
            ..Endpoint::default()
        };
        snapshot.namespaces.insert(namespace.to_owned(), Arc::new(space));
        snapshot.endpoints.insert(format!("{namespace}/{name}"), Arc::new(endpoint));
    }
    let key = format!("{}/{}/{}", object.kind, object.namespace, object.name);
    snapshot.policies.insert(key, Arc::new(object));
    let compiled = policy::compile(&snapshot);
    (snapshot, compiled)
}
