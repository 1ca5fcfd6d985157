//! Kubernetes NetworkPolicy objects.

use serde_json::{Map, Value, json};

use super::Theme;
use super::address::{self, Form};
use super::cluster::Cluster;
use super::hint::Hint;
use super::ports;
use super::rng::Rng;
use super::selector::{self, Place};

/// One object named `name`; what it is about is added to `hints`.
pub(crate) fn policy(rng: &mut Rng, cluster: &Cluster, name: &str, hints: &mut Vec<Hint>) -> Value {
    let subject = rng.below(cluster.endpoints.len());
    let target = &cluster.endpoints[subject];
    let mut spec = Map::new();
    let selector = match rng.chance(15) {
        true => json!({}),
        false => selector::for_endpoint(rng, cluster, target, Place::Plain),
    };
    spec.insert("podSelector".into(), selector);
    if rng.chance(75) {
        spec.insert("ingress".into(), rules(rng, cluster, subject, false, hints));
    }
    if rng.chance(45) {
        spec.insert("egress".into(), rules(rng, cluster, subject, true, hints));
    }
    match rng.below(6) {
        0 => spec.insert("policyTypes".into(), json!(["Ingress"])),
        1 => spec.insert("policyTypes".into(), json!(["Egress"])),
        2 | 3 => spec.insert("policyTypes".into(), json!(["Ingress", "Egress"])),
        _ => None,
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": target.namespace}, "spec": spec,
    })
}

fn rules(rng: &mut Rng, cluster: &Cluster, subject: usize, egress: bool, hints: &mut Vec<Hint>) -> Value {
    let count = *rng.pick(&[0, 1, 1, 1, 2]);
    let list = (0..count).map(|_| {
        let mut hint = Hint { egress, subject, ..Hint::default() };
        let mut out = Map::new();
        if rng.chance(80) {
            let count = rng.between(0, 2);
            let peers: Value = (0..count).map(|_| peer(rng, cluster, subject, &mut hint.peers)).collect();
            out.insert(if egress { "to" } else { "from" }.into(), peers);
        }
        let ports = ports::of_network_policy(rng, cluster);
        if let Some((name, value)) = ports.field {
            out.insert(name.into(), value);
        }
        hint.ports = ports.near;
        hints.push(hint);
        Value::Object(out)
    });
    list.collect()
}

fn peer(rng: &mut Rng, cluster: &Cluster, subject: usize, near: &mut Vec<String>) -> Value {
    let over_pods = cluster.theme == Theme::IpBlockOverPods;
    if rng.chance(if over_pods { 75 } else { 35 }) {
        let form = if over_pods { Form::IpBlockOverPods } else { Form::IpBlock };
        if over_pods {
            near.extend(cluster.endpoints.iter().map(|e| e.key()));
        }
        return json!({ "ipBlock": address::block(rng, cluster, form, near) });
    }
    let home = &cluster.endpoints[subject].namespace;
    let target = rng.pick(&cluster.endpoints);
    near.extend([target.key(), target.key()]);
    let mut out = Map::new();
    if target.namespace != *home && rng.chance(90) || rng.chance(25) {
        out.insert("namespaceSelector".into(), namespace_selector(rng, cluster, &target.namespace));
    }
    if out.is_empty() || rng.chance(60) {
        let selector = match rng.chance(12) {
            true => json!({}),
            false => selector::for_endpoint(rng, cluster, target, Place::Plain),
        };
        out.insert("podSelector".into(), selector);
    }
    Value::Object(out)
}

fn namespace_selector(rng: &mut Rng, cluster: &Cluster, namespace: &str) -> Value {
    let own = cluster.namespaces.get(namespace).and_then(|l| l.iter().next());
    match (rng.below(10), own) {
        (0..=3, Some((key, value))) => json!({"matchLabels": {*key: value}}),
        (4, _) => json!({}),
        (5, _) => json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}),
        (6, _) => json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
        (7, _) => json!({"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["far", "nowhere"]}
        ]}),
        (8, _) => json!({"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace, "nowhere"]}
        ]}),
        _ => json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}}),
    }
}
