//! `toPorts`, `icmps` and a NetworkPolicy's `ports`, with the protocol and port numbers near them.

use serde_json::{Map, Value, json};

use super::Theme;
use super::cluster::Cluster;
use super::hint::ProtoPort;
use super::http::{self, Request};
use super::rng::Rng;

const TRANSPORTS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NUMBERS: [u16; 10] = [80, 443, 8080, 8443, 53, 5353, 9090, 3306, 1, 65535];
const NAMES: [&str; 7] = ["http", "https", "metrics", "dns", "dns-tcp", "sig", "nobody"];
const ICMP4: [(&str, u16); 6] = [
    ("EchoRequest", 8),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("TimeExceeded", 11),
    ("Timestamp", 13),
    ("ExtendedEchoRequest", 42),
];
const ICMP6: [(&str, u16); 5] = [
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("PacketTooBig", 2),
    ("DestinationUnreachable", 1),
    ("NeighborSolicitation", 135),
];

/// What a rule's ports came out as.
#[derive(Default)]
pub(crate) struct Ports {
    /// The field to add to the rule, `None`: no restriction.
    pub(crate) field: Option<(&'static str, Value)>,
    pub(crate) near: Vec<ProtoPort>,
    pub(crate) requests: Vec<Request>,
}

/// `toPorts` or `icmps` of a CNP rule. Layer 7 only if `http`.
pub(crate) fn of_rule(rng: &mut Rng, cluster: &Cluster, http: bool) -> Ports {
    let zero = cluster.theme == Theme::IcmpTypeZero;
    match rng.below(100) {
        _ if zero && rng.chance(70) => icmps(rng, cluster),
        0..=22 => Ports::default(),
        23..=25 => empty(rng),
        26..=38 => icmps(rng, cluster),
        _ => to_ports(rng, cluster, http),
    }
}

/// Lists without elements, and elements without ports: the former restrict nothing, the latter select
/// nothing.
fn empty(rng: &mut Rng) -> Ports {
    let field = match rng.below(6) {
        0 => ("toPorts", json!([])),
        1 => ("toPorts", json!([{}])),
        2 => ("toPorts", json!([{"ports": []}])),
        3 => ("icmps", json!([])),
        4 => ("icmps", json!([{}])),
        _ => ("icmps", json!([{"fields": []}])),
    };
    Ports { field: Some(field), ..Ports::default() }
}

fn to_ports(rng: &mut Rng, cluster: &Cluster, http: bool) -> Ports {
    let mut out = Ports::default();
    let elements = if rng.chance(20) { 2 } else { 1 };
    let mut list = Vec::new();
    for _ in 0..elements {
        let l7 = http && rng.chance(75);
        let count = rng.between(1, 3);
        let ports: Vec<Value> = (0..count).map(|_| port(rng, cluster, l7, &mut out.near)).collect();
        let mut element = Map::from_iter([("ports".to_string(), Value::Array(ports))]);
        if l7 {
            let (rules, requests) = http::rules(rng);
            element.insert("rules".into(), json!({ "http": rules }));
            out.requests.extend(requests);
        }
        list.push(Value::Object(element));
    }
    out.field = Some(("toPorts", Value::Array(list)));
    out
}

/// One element of `toPorts[].ports`.
fn port(rng: &mut Rng, cluster: &Cluster, l7: bool, near: &mut Vec<ProtoPort>) -> Value {
    let protocol = match l7 {
        true => Some("TCP"),
        false => *rng.pick(&[Some("TCP"), Some("TCP"), Some("UDP"), Some("SCTP"), Some("ANY"), None]),
    };
    let transport: &'static str = match protocol {
        Some("UDP") => "UDP",
        Some("SCTP") => "SCTP",
        Some("ANY") | None => TRANSPORTS[rng.below(3)],
        _ => "TCP",
    };
    let mut out = Map::new();
    match rng.below(10) {
        0 | 1 => {
            let name = *rng.pick(&NAMES);
            out.insert("port".into(), json!(if rng.chance(10) { name.to_uppercase() } else { name.into() }));
            for endpoint in &cluster.endpoints {
                let named = endpoint.ports.iter().filter(|(n, _, _)| *n == name);
                near.extend(named.map(|(_, protocol, number)| (*protocol, *number)));
            }
        }
        2 if !l7 && rng.chance(40) => {
            out.insert("port".into(), json!("0"));
            near.push((transport, *rng.pick(&NUMBERS)));
        }
        2..=4 => {
            let (first, last) = range(rng);
            out.insert("port".into(), json!(first.to_string()));
            out.insert("endPort".into(), json!(last));
            near.extend([first, last, first + (last - first) / 2].map(|p| (transport, p)));
            near.extend([first - 1, last.saturating_add(1)].map(|p| (transport, p)));
        }
        _ => {
            let number = *rng.pick(&NUMBERS);
            out.insert("port".into(), json!(number.to_string()));
            near.extend([(transport, number), (transport, number)]);
        }
    }
    if let Some(protocol) = protocol {
        out.insert("protocol".into(), json!(protocol));
    }
    Value::Object(out)
}

/// First and last port; ranges overlap each other and the single ports often.
fn range(rng: &mut Rng) -> (u16, u16) {
    match rng.below(6) {
        0 => (8000, 8100),
        1 => (80, 443),
        2 => (1024, 65535),
        3 => (8080, 8080),
        _ => {
            let first = 1 + rng.below(9000) as u16;
            (first, first + rng.below(2000) as u16)
        }
    }
}

fn icmps(rng: &mut Rng, cluster: &Cluster) -> Ports {
    let mut near = Vec::new();
    let count = rng.between(1, 2);
    let mut fields: Vec<Value> = (0..count).map(|_| icmp_field(rng, cluster, &mut near)).collect();
    if cluster.theme == Theme::IcmpTypeZero {
        fields.push(if rng.chance(50) { json!({"type": 0}) } else { json!({"type": "EchoReply"}) });
        near.extend([("ICMP", 0), ("ICMP", 8), ("ICMP", 3), ("ICMP", 14)]);
    }
    let field = Some(("icmps", json!([{ "fields": fields }])));
    Ports { field, near, requests: Vec::new() }
}

fn icmp_field(rng: &mut Rng, cluster: &Cluster, near: &mut Vec<ProtoPort>) -> Value {
    let v6 = rng.chance(if cluster.ipv6 { 55 } else { 20 });
    let (protocol, table): (_, &[(&str, u16)]) = if v6 { ("ICMPv6", &ICMP6) } else { ("ICMP", &ICMP4) };
    let (name, number) = *rng.pick(table);
    near.extend([(protocol, number), (protocol, number), (protocol, number + 1)]);
    let mut out = Map::new();
    out.insert("type".into(), if rng.chance(50) { json!(name) } else { json!(number) });
    if v6 {
        out.insert("family".into(), json!("IPv6"));
    } else if rng.chance(50) {
        out.insert("family".into(), json!("IPv4"));
    }
    Value::Object(out)
}

/// The `ports` of a NetworkPolicy rule.
pub(crate) fn of_network_policy(rng: &mut Rng, cluster: &Cluster) -> Ports {
    let mut out = Ports::default();
    if rng.chance(25) {
        return out;
    }
    let mut list = Vec::new();
    for _ in 0..rng.between(1, 2) {
        let protocol = *rng.pick(&[None, Some("TCP"), Some("UDP"), Some("SCTP")]);
        let transport = protocol.unwrap_or("TCP");
        let mut port = Map::new();
        match rng.below(10) {
            0 => out.near.push((transport, *rng.pick(&NUMBERS))),
            1 | 2 => {
                let name = *rng.pick(&NAMES);
                port.insert("port".into(), json!(name));
                for endpoint in &cluster.endpoints {
                    let named = endpoint.ports.iter().filter(|(n, _, _)| *n == name);
                    out.near.extend(named.map(|(_, protocol, number)| (*protocol, *number)));
                }
            }
            3 | 4 => {
                let (first, last) = range(rng);
                port.insert("port".into(), json!(first));
                port.insert("endPort".into(), json!(last));
                out.near.extend([first, last, last.saturating_add(1)].map(|p| (transport, p)));
            }
            _ => {
                let number = *rng.pick(&NUMBERS);
                port.insert("port".into(), json!(number));
                out.near.extend([(transport, number), (transport, number)]);
            }
        }
        if let Some(protocol) = protocol {
            port.insert("protocol".into(), json!(protocol));
        }
        list.push(Value::Object(port));
    }
    out.field = Some(("ports", Value::Array(list)));
    out
}
