//! The small cluster of a case: settings, namespaces, endpoints, nodes; and the addresses outside it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Theme;
use super::rng::Rng;

const LABELS: [(&str, &[&str]); 4] = [
    ("app", &["web", "api", "db", "cache"]),
    ("tier", &["front", "back"]),
    ("env", &["prod", "test", "dev"]),
    ("example.com/team", &["red", "blue"]),
];
const NAMES: [&str; 8] = ["ada", "bob", "cleo", "dan", "eve", "fred", "gus", "hal"];
const NAMED_PORTS: [(&str, &str, &[u16]); 6] = [
    ("http", "TCP", &[80, 8080]),
    ("https", "TCP", &[443, 8443]),
    ("metrics", "TCP", &[9090, 9100]),
    ("dns", "UDP", &[53, 5353]),
    ("dns-tcp", "TCP", &[53, 5353]),
    ("sig", "SCTP", &[2905]),
];

/// One endpoint as the rest of the generator looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: Option<&'static str>,
    pub(crate) ports: Vec<(&'static str, &'static str, u16)>,
    pub(crate) ips: Vec<String>,
}

impl Endpoint {
    /// How queries name it.
    pub(crate) fn key(&self) -> String {
        if self.namespace == "default" {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    fn json(&self) -> Value {
        let mut out = Map::new();
        out.insert("name".into(), json!(self.name));
        if self.namespace != "default" {
            out.insert("namespace".into(), json!(self.namespace));
        }
        out.insert("labels".into(), json!(self.labels));
        // One address each is what readers of the format give by themselves.
        if self.ips.len() > 1 {
            out.insert("ips".into(), json!(self.ips));
        }
        if let Some(account) = self.service_account {
            out.insert("serviceAccount".into(), json!(account));
        }
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(|(name, protocol, port)| match *protocol {
                "TCP" => json!({"name": name, "port": port}),
                _ => json!({"name": name, "port": port, "protocol": protocol}),
            });
            out.insert("ports".into(), ports.collect());
        }
        Value::Object(out)
    }
}

/// The cluster of one case.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) theme: Theme,
    pub(crate) ipv6: bool,
    pub(crate) localhost_by_policy: bool,
    pub(crate) enforcement: Option<&'static str>,
    pub(crate) namespaces: BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Name, whether it is the local one, address.
    pub(crate) nodes: Vec<(&'static str, bool, Vec<&'static str>)>,
    pub(crate) apiserver: Option<&'static str>,
}

impl Cluster {
    pub(crate) fn random(rng: &mut Rng, theme: Theme) -> Self {
        let ipv6 = rng.chance(40);
        let mut namespaces = BTreeMap::from([("default", BTreeMap::new())]);
        for name in rng.some(&["shop", "far", "kube-system"], 2) {
            let mut labels = BTreeMap::new();
            if rng.chance(70) {
                labels.insert("team", *rng.pick(&["red", "blue"]));
            }
            if rng.chance(30) {
                labels.insert("stage", *rng.pick(&["prod", "test"]));
            }
            namespaces.insert(name, labels);
        }
        let names: Vec<&str> = namespaces.keys().copied().collect();
        let count = rng.between(3, 6);
        let endpoints = (0..count).map(|n| endpoint(rng, n, &names, ipv6)).collect();
        let (nodes, apiserver) = nodes(rng, ipv6);
        let localhost_by_policy = rng.chance(30);
        let enforcement = rng.chance(6).then(|| *rng.pick(&["always", "always", "never"]));
        Self { theme, ipv6, localhost_by_policy, enforcement, namespaces, endpoints, nodes, apiserver }
    }

    /// Writes everything but policies and queries into a case.
    pub(crate) fn write(&self, case: &mut Map<String, Value>) {
        let mut config = Map::new();
        if self.localhost_by_policy {
            config.insert("allowLocalhost".into(), json!("policy"));
        }
        if let Some(enforcement) = self.enforcement {
            config.insert("enforcement".into(), json!(enforcement));
        }
        if self.ipv6 {
            config.insert("ipv6".into(), json!(true));
        }
        if !config.is_empty() {
            case.insert("config".into(), Value::Object(config));
        }
        let labelled: BTreeMap<_, _> = self.namespaces.iter().filter(|(_, l)| !l.is_empty()).collect();
        if !labelled.is_empty() {
            case.insert("namespaces".into(), json!(labelled));
        }
        case.insert("endpoints".into(), self.endpoints.iter().map(Endpoint::json).collect());
        if !self.nodes.is_empty() {
            let nodes = self.nodes.iter().map(|(name, local, ips)| match local {
                true => json!({"name": name, "local": true, "ips": ips}),
                false => json!({"name": name, "ips": ips}),
            });
            case.insert("nodes".into(), nodes.collect());
        }
        if let Some(address) = self.apiserver {
            case.insert("apiserver".into(), json!([address]));
        }
    }

    /// An address outside the cluster that no rule thought of.
    pub(crate) fn stranger(&self, rng: &mut Rng) -> String {
        const V4: [&str; 5] = ["198.51.100.9", "203.0.113.200", "192.0.2.200", "10.99.0.1", "8.8.8.8"];
        const V6: [&str; 3] = ["2001:db8:9::1", "2001:db8:1::9", "2a00::1"];
        let pool: &[&str] = if self.ipv6 && rng.chance(40) { &V6 } else { &V4 };
        (*rng.pick(pool)).to_string()
    }
}

fn endpoint(rng: &mut Rng, n: usize, namespaces: &[&str], ipv6: bool) -> Endpoint {
    let mut labels = BTreeMap::new();
    for (key, values) in LABELS {
        if key == "app" || rng.chance(45) {
            labels.insert(key.to_string(), (*rng.pick(values)).to_string());
        }
    }
    let mut ports: Vec<(&str, &str, u16)> = Vec::new();
    if rng.chance(65) {
        for (name, protocol, numbers) in rng.some(&NAMED_PORTS, 3) {
            ports.push((name, protocol, *rng.pick(numbers)));
        }
    }
    let mut ips = vec![format!("10.244.0.{}", n + 1)];
    if ipv6 {
        ips.push(format!("fd00:10:244::{:x}", 16 + n));
    }
    Endpoint {
        name: NAMES[n].to_string(),
        namespace: if rng.chance(55) { "default" } else { *rng.pick(namespaces) }.to_string(),
        labels,
        service_account: rng.chance(25).then(|| *rng.pick(&["robot", "clerk"])),
        ports,
        ips,
    }
}

type Nodes = Vec<(&'static str, bool, Vec<&'static str>)>;

fn nodes(rng: &mut Rng, ipv6: bool) -> (Nodes, Option<&'static str>) {
    let mut nodes: Nodes = Vec::new();
    if rng.chance(70) {
        nodes.push(("n1", true, vec!["172.18.0.2"]));
        nodes.push(("n2", false, vec!["172.18.0.3"]));
        if ipv6 {
            nodes[0].2.push("fd00:18::2");
            nodes[1].2.push("fd00:18::3");
        }
    }
    // On the local node, on another one, or on a machine outside the cluster.
    const SERVERS: [&str; 4] = ["172.18.0.2", "172.18.0.3", "172.18.0.3", "198.51.100.5"];
    let apiserver = (!nodes.is_empty() && rng.chance(60)).then(|| *rng.pick(&SERVERS));
    (nodes, apiserver)
}
