//! Queries: flows that the rules are about, and flows that just miss them.

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use super::hint::{Hint, ProtoPort};
use super::http::Request;
use super::rng::Rng;

const STRAY_PORTS: [ProtoPort; 10] = [
    ("TCP", 80),
    ("TCP", 443),
    ("TCP", 8080),
    ("TCP", 7),
    ("UDP", 53),
    ("UDP", 80),
    ("SCTP", 2905),
    ("ICMP", 8),
    ("ICMPv6", 128),
    ("ICMP", 13),
];

/// One query, without a verdict.
pub(crate) fn query(rng: &mut Rng, cluster: &Cluster, hints: &[Hint]) -> Value {
    loop {
        let stray = Hint { subject: rng.below(cluster.endpoints.len()), ..Hint::default() };
        let hint = if hints.is_empty() || rng.chance(8) { &stray } else { rng.pick(hints) };
        let subject = subject(rng, cluster, hint);
        let peer = if hint.peers.is_empty() || rng.chance(18) {
            somebody(rng, cluster)
        } else {
            rng.pick(&hint.peers).clone()
        };
        let (from, to) = if hint.egress { (subject, peer) } else { (peer, subject) };
        if from == to {
            continue;
        }
        let (protocol, port) = if hint.ports.is_empty() || rng.chance(15) {
            *rng.pick(&STRAY_PORTS)
        } else {
            *rng.pick(&hint.ports)
        };
        let mut out = Map::from_iter([
            ("from".to_string(), json!(from)),
            ("to".to_string(), json!(to)),
            ("port".to_string(), json!(port)),
        ]);
        if protocol != "TCP" {
            out.insert("protocol".into(), json!(protocol));
        } else if let Some(request) = request(rng, hints, hint) {
            out.insert("http".into(), request.json());
        }
        return Value::Object(out);
    }
}

/// Most often the endpoint that the rule was written for, now and then by its address.
fn subject(rng: &mut Rng, cluster: &Cluster, hint: &Hint) -> String {
    let endpoint = match rng.chance(88) {
        true => &cluster.endpoints[hint.subject],
        false => rng.pick(&cluster.endpoints),
    };
    if rng.chance(5) { rng.pick(&endpoint.ips).clone() } else { endpoint.key() }
}

fn somebody(rng: &mut Rng, cluster: &Cluster) -> String {
    match rng.below(10) {
        0..=5 => rng.pick(&cluster.endpoints).key(),
        6 => cluster.stranger(rng),
        7 => "entity:host".into(),
        8 if !cluster.nodes.is_empty() => {
            let (_, _, ips) = rng.pick(&cluster.nodes);
            rng.pick(ips).to_string()
        }
        _ => format!("entity:{}", rng.pick(&["host", "remote-node", "health", "unmanaged"])),
    }
}

fn request(rng: &mut Rng, hints: &[Hint], hint: &Hint) -> Option<Request> {
    if !hint.requests.is_empty() && rng.chance(85) {
        return Some(rng.pick(&hint.requests).clone());
    }
    let all: Vec<&Request> = hints.iter().flat_map(|h| &h.requests).collect();
    if all.is_empty() || rng.chance(60) {
        return rng.chance(10).then(|| Request::stray(rng));
    }
    Some((*rng.pick(&all)).clone())
}
