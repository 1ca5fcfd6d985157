//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy objects.

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use super::hint::Hint;
use super::rng::Rng;
use super::selector::{self, Place};
use super::{peers, ports};

/// One object named `name`; what it is about is added to `hints`.
pub(crate) fn policy(rng: &mut Rng, cluster: &Cluster, name: &str, hints: &mut Vec<Hint>) -> Value {
    let subject = rng.below(cluster.endpoints.len());
    let namespace = cluster.endpoints[subject].namespace.as_str();
    let clusterwide = rng.chance(18);
    let place = if clusterwide { Place::ClusterPeer } else { Place::Peer(namespace) };
    let first = spec(rng, cluster, subject, place, hints);
    let (field, value) = match rng.chance(8) {
        true => ("specs", json!([first, spec(rng, cluster, subject, place, hints)])),
        false => ("spec", first),
    };
    let (kind, metadata) = match clusterwide {
        true => ("CiliumClusterwideNetworkPolicy", json!({ "name": name })),
        false => ("CiliumNetworkPolicy", json!({"name": name, "namespace": namespace})),
    };
    json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, field: value})
}

/// A rule of the API: a subject with its four sections.
fn spec(rng: &mut Rng, cluster: &Cluster, subject: usize, place: Place<'_>, hints: &mut Vec<Hint>) -> Value {
    let mut out = Map::new();
    let selector = match rng.chance(10) {
        true => json!({}),
        false => selector::for_endpoint(rng, cluster, &cluster.endpoints[subject], Place::Subject),
    };
    out.insert("endpointSelector".into(), selector);
    let count = *rng.pick(&[1, 1, 1, 2, 2, 3]);
    for _ in 0..count {
        let egress = rng.chance(45);
        let deny = rng.chance(26);
        let section = match (egress, deny) {
            (false, false) => "ingress",
            (false, true) => "ingressDeny",
            (true, false) => "egress",
            (true, true) => "egressDeny",
        };
        let (rule, hint) = rule(rng, cluster, place, egress, deny);
        hints.push(Hint { subject, ..hint });
        match out.get_mut(section) {
            Some(Value::Array(list)) => list.push(rule),
            _ => {
                out.insert(section.into(), json!([rule]));
            }
        }
    }
    if rng.chance(3) {
        let section = *rng.pick(&["ingress", "egress", "ingressDeny", "egressDeny"]);
        out.entry(section).or_insert_with(|| json!([]));
    }
    options(rng, &mut out);
    Value::Object(out)
}

fn rule(rng: &mut Rng, cluster: &Cluster, place: Place<'_>, egress: bool, deny: bool) -> (Value, Hint) {
    let mut hint = Hint { egress, ..Hint::default() };
    let mut out = Map::new();
    if let Some((name, value)) = peers::of_rule(rng, cluster, place, egress, &mut hint.peers) {
        out.insert(name.into(), value);
    }
    let ports = ports::of_rule(rng, cluster, !deny);
    if let Some((name, value)) = ports.field {
        out.insert(name.into(), value);
    }
    hint.ports = ports.near;
    hint.requests = ports.requests;
    (Value::Object(out), hint)
}

fn options(rng: &mut Rng, out: &mut Map<String, Value>) {
    if rng.chance(22) {
        let value = match rng.below(6) {
            0 => json!({"ingress": false}),
            1 => json!({"egress": false}),
            2 => json!({"ingress": true}),
            3 => json!({"egress": true}),
            4 => json!({"ingress": false, "egress": false}),
            _ => json!({"ingress": rng.chance(50), "egress": rng.chance(50)}),
        };
        out.insert("enableDefaultDeny".into(), value);
    }
    if rng.chance(6) {
        out.insert("description".into(), json!("made up"));
    }
    if rng.chance(4) {
        out.insert("labels".into(), json!([{"key": "origin", "value": "corpus", "source": "k8s"}]));
    }
    if rng.chance(4) {
        out.insert("log".into(), json!({"value": "seen"}));
    }
}
