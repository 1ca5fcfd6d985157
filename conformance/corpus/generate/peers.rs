//! The peers of a rule: endpoints, entities or CIDRs, with somebody who should be covered.

use serde_json::{Value, json};

use super::address::{self, Form};
use super::cluster::Cluster;
use super::rng::Rng;
use super::selector::{self, Place};

/// The entities that Cilium 1.20's schema and ours both know.
const ENTITIES: [&str; 11] = [
    "all",
    "world",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "health",
    "init",
    "ingress",
    "unmanaged",
    "none",
];

/// The field of a CNP rule that names its peers (`None`: anybody), and people to ask about.
pub(crate) fn of_rule(
    rng: &mut Rng,
    cluster: &Cluster,
    place: Place<'_>,
    egress: bool,
    near: &mut Vec<String>,
) -> Option<(&'static str, Value)> {
    let name = |ingress, egress_name| if egress { egress_name } else { ingress };
    match rng.below(100) {
        0..=13 => None,
        14..=52 => Some((name("fromEndpoints", "toEndpoints"), endpoints(rng, cluster, place, near))),
        53..=70 => Some((name("fromEntities", "toEntities"), entities(rng, cluster, near))),
        71..=85 => {
            let blocks = blocks(rng, cluster, Form::Plain, near);
            Some((name("fromCIDR", "toCIDR"), blocks))
        }
        _ => {
            let blocks = blocks(rng, cluster, Form::Set, near);
            Some((name("fromCIDRSet", "toCIDRSet"), blocks))
        }
    }
}

fn endpoints(rng: &mut Rng, cluster: &Cluster, place: Place<'_>, near: &mut Vec<String>) -> Value {
    match rng.below(100) {
        0..=6 => json!([]),
        7..=15 => {
            near.extend(cluster.endpoints.iter().map(|e| e.key()));
            json!([{}])
        }
        16..=18 => {
            let (selector, name) = selector::reserved(rng);
            near.push(format!("entity:{name}"));
            json!([selector])
        }
        _ => {
            let mut list = Vec::new();
            for _ in 0..rng.between(1, 2) {
                let target = rng.pick(&cluster.endpoints);
                near.extend([target.key(), target.key()]);
                list.push(selector::for_endpoint(rng, cluster, target, place));
            }
            Value::Array(list)
        }
    }
}

fn entities(rng: &mut Rng, cluster: &Cluster, near: &mut Vec<String>) -> Value {
    if rng.chance(3) {
        return json!([]);
    }
    let list = rng.some(&ENTITIES, 2);
    for entity in &list {
        match *entity {
            "all" => near.extend([rng.pick(&cluster.endpoints).key(), cluster.stranger(rng)]),
            "world" => near.extend([cluster.stranger(rng), cluster.stranger(rng)]),
            "cluster" => near.extend([rng.pick(&cluster.endpoints).key(), "entity:host".into()]),
            "none" => {}
            "kube-apiserver" => {
                near.push("entity:kube-apiserver".into());
                near.extend(cluster.apiserver.map(String::from));
            }
            "host" | "remote-node" => {
                near.push(format!("entity:{entity}"));
                let node = cluster.nodes.iter().find(|(_, local, _)| *local == (*entity == "host"));
                near.extend(node.map(|(_, _, ips)| ips[0].to_string()));
            }
            other => near.push(format!("entity:{other}")),
        }
    }
    json!(list)
}

fn blocks(rng: &mut Rng, cluster: &Cluster, form: Form, near: &mut Vec<String>) -> Value {
    let count = *rng.pick(&[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    (0..count).map(|_| address::block(rng, cluster, form, near)).collect()
}
