//! Label selectors that most often select the endpoint they are made for, in every notation there is.

use serde_json::{Map, Value, json};

use super::cluster::{Cluster, Endpoint};
use super::rng::Rng;

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// Where a selector stands; it decides what namespaces mean there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// `endpointSelector`: the namespace is the policy's.
    Subject,
    /// A peer in a policy of this namespace.
    Peer(&'a str),
    /// A peer in a clusterwide policy.
    ClusterPeer,
    /// Plain Kubernetes labels without prefixes (NetworkPolicy).
    Plain,
}

/// A selector made for `target`.
pub(crate) fn for_endpoint(rng: &mut Rng, cluster: &Cluster, target: &Endpoint, place: Place<'_>) -> Value {
    let mut labels = Map::new();
    let mut expressions = Vec::new();
    if rng.chance(85) {
        own_labels(rng, target, place, &mut labels, &mut expressions);
    }
    let foreign = match place {
        Place::Peer(namespace) => namespace != target.namespace,
        Place::ClusterPeer => rng.chance(30),
        Place::Subject | Place::Plain => false,
    };
    if place != Place::Plain && rng.chance(8) {
        let account = target.service_account.unwrap_or("default");
        labels.insert(format!("{}{SERVICE_ACCOUNT}", prefix(rng)), json!(account));
    }
    if foreign && rng.chance(85) || matches!(place, Place::Peer(_)) && rng.chance(8) {
        namespace(rng, cluster, &target.namespace, &mut labels, &mut expressions);
    }
    let mut out = Map::new();
    if !labels.is_empty() {
        out.insert("matchLabels".into(), Value::Object(labels));
    }
    if !expressions.is_empty() {
        out.insert("matchExpressions".into(), Value::Array(expressions));
    }
    Value::Object(out)
}

/// A selector of one of the reserved identities.
pub(crate) fn reserved(rng: &mut Rng) -> (Value, &'static str) {
    let name = *rng.pick(&["host", "remote-node", "health", "init", "ingress", "unmanaged"]);
    let key = format!("reserved:{name}");
    let selector = match rng.chance(60) {
        true => json!({"matchLabels": {key: ""}}),
        false => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
    };
    (selector, name)
}

fn own_labels(
    rng: &mut Rng,
    target: &Endpoint,
    place: Place<'_>,
    labels: &mut Map<String, Value>,
    expressions: &mut Vec<Value>,
) {
    let all: Vec<(&String, &String)> = target.labels.iter().collect();
    for (key, value) in rng.some(&all, 2) {
        let prefix = if place == Place::Plain { "" } else { prefix(rng) };
        let key = format!("{prefix}{key}");
        match rng.below(10) {
            0..=4 => {
                labels.insert(key, json!(value));
            }
            5 | 6 => expressions.push(json!({"key": key, "operator": "In", "values": [value, "other"]})),
            7 => expressions.push(json!({"key": key, "operator": "NotIn", "values": ["other", "test"]})),
            8 => expressions.push(json!({"key": key, "operator": "Exists"})),
            _ => {
                labels.insert(key, json!(*rng.pick(&["web", "api", "front", "prod", "red"])));
            }
        }
    }
    if rng.chance(12) {
        let key = *rng.pick(&["env", "tier", "example.com/team", "absent"]);
        expressions.push(json!({"key": key, "operator": "DoesNotExist"}));
    }
    if rng.chance(5) {
        let key = *rng.pick(&["env", "absent"]);
        expressions.push(json!({"key": key, "operator": "NotIn", "values": ["test"]}));
    }
}

fn namespace(
    rng: &mut Rng,
    cluster: &Cluster,
    namespace: &str,
    labels: &mut Map<String, Value>,
    expressions: &mut Vec<Value>,
) {
    let prefix = *rng.pick(&["k8s:", "k8s:", "", "any:"]);
    let own = cluster.namespaces.get(namespace).and_then(|l| l.iter().next());
    match (rng.below(10), own) {
        (0..=2, Some((key, value))) => {
            labels.insert(format!("{prefix}{NAMESPACE_LABELS}{key}"), json!(value));
        }
        (3, _) => expressions.push(json!({
            "key": format!("{prefix}{NAMESPACE_LABELS}kubernetes.io/metadata.name"),
            "operator": "In", "values": [namespace, "nowhere"],
        })),
        (4, _) => expressions.push(json!({
            "key": format!("{prefix}{NAMESPACE}"), "operator": "In", "values": [namespace, "nowhere"],
        })),
        (5, _) => expressions.push(json!({
            "key": format!("{prefix}{NAMESPACE}"), "operator": "NotIn", "values": ["nowhere", "far"],
        })),
        (6, _) => {
            expressions.push(json!({"key": format!("{prefix}{NAMESPACE}"), "operator": "Exists"}));
        }
        _ => {
            labels.insert(format!("{prefix}{NAMESPACE}"), json!(namespace));
        }
    }
}

fn prefix(rng: &mut Rng) -> &'static str {
    const PREFIXES: [&str; 5] = ["", "", "", "k8s:", "any:"];
    PREFIXES[rng.below(5)]
}
