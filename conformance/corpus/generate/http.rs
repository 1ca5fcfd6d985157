//! HTTP rules, and requests that match or just miss them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::rng::Rng;

/// A pattern with values near it; which of them match is the oracle's business.
type Pattern = (&'static str, &'static [&'static str]);

const METHODS: &[Pattern] = &[
    ("GET", &["GET", "GET", "get", "POST"]),
    ("GET|HEAD", &["GET", "HEAD", "GETX", "PUT"]),
    ("P(OST|UT)", &["POST", "PUT", "PATCH", "P"]),
    ("[A-Z]+", &["DELETE", "get", "GET"]),
    ("DELETE", &["DELETE", "GET"]),
];
const PATHS: &[Pattern] = &[
    ("/", &["/", "/a"]),
    ("/public/.*", &["/public/a", "/public/", "/public", "/x/public/a"]),
    ("/api/v[0-9]+/items(/.*)?", &["/api/v1/items", "/api/v12/items/7", "/api/vx/items", "/api/v1/itemsx"]),
    ("/submit", &["/submit", "/submit/x", "/submit?now=1"]),
    ("/a|/b", &["/a", "/b", "/ab", "/a/b"]),
    ("/items\\?id=[0-9]+", &["/items?id=7", "/items?id=x", "/items"]),
    (".*\\.png", &["/img/logo.png", "/img/logo.png?x=1", "/logo.svg"]),
    ("(?i)/Mixed", &["/mixed", "/MIXED", "/mixe"]),
    ("^/anchored$", &["/anchored", "/anchored/"]),
    ("", &["/anything", "/"]),
];
const HOSTS: &[Pattern] = &[
    ("api[.]example[.]com", &["api.example.com", "apixexample.com", "api.example.com:8080"]),
    (".*\\.example\\.com", &["a.b.example.com", ".example.com", "example.com"]),
    ("shop(:8080)?", &["shop", "shop:8080", "shop:80"]),
];
const HEADERS: [(&str, &str); 4] =
    [("X-Token", "s3cret"), ("X-Trace", "1"), ("X-Env", "prod"), ("X-User-Agent", "curl a b")];
const MISMATCH: [&str; 4] = ["LOG", "ADD", "DELETE", "REPLACE"];

/// A request as queries state it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    path: &'static str,
    host: Option<&'static str>,
    headers: BTreeMap<String, String>,
}

impl Request {
    /// A request that has nothing to do with any rule.
    pub(crate) fn stray(rng: &mut Rng) -> Self {
        Self {
            method: *rng.pick(&["GET", "POST", "OPTIONS"]),
            path: *rng.pick(&["/", "/stray", "/public/zzz", "/submit"]),
            host: Some("elsewhere.test"),
            headers: BTreeMap::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut out = Map::new();
        out.insert("method".into(), json!(self.method));
        out.insert("path".into(), json!(self.path));
        if let Some(host) = self.host {
            out.insert("host".into(), json!(host));
        }
        if !self.headers.is_empty() {
            out.insert("headers".into(), json!(self.headers));
        }
        Value::Object(out)
    }
}

/// The value of `rules.http`, and requests near it.
pub(crate) fn rules(rng: &mut Rng) -> (Value, Vec<Request>) {
    let mut requests = Vec::new();
    // Now and then none, which is no restriction.
    let count = if rng.chance(2) { 0 } else { rng.between(1, 2) };
    let rules: Vec<Value> = (0..count).map(|_| rule(rng, &mut requests)).collect();
    (Value::Array(rules), requests)
}

fn rule(rng: &mut Rng, requests: &mut Vec<Request>) -> Value {
    let mut out = Map::new();
    let mut field = |rng: &mut Rng, name: &str, percent: usize, table: &'static [Pattern]| {
        if !rng.chance(percent) {
            return None;
        }
        let (pattern, samples) = *rng.pick(table);
        out.insert(name.into(), json!(pattern));
        Some(samples)
    };
    let methods = field(rng, "method", 55, METHODS);
    let paths = field(rng, "path", 70, PATHS);
    let hosts = field(rng, "host", 25, HOSTS);
    let wanted = headers(rng, &mut out);
    for attempt in 0..4 {
        // The first sample of each field matches; later attempts stray in one field each.
        let pick = |samples: Option<&'static [&'static str]>, rng: &mut Rng, stray: bool| {
            samples.map(|s| if stray { *rng.pick(s) } else { s[0] })
        };
        let method = pick(methods, rng, attempt == 1);
        let path = pick(paths, rng, attempt == 2);
        let host = pick(hosts, rng, attempt == 3);
        requests.push(Request {
            method: method.unwrap_or("GET"),
            path: path.unwrap_or("/any"),
            host: if attempt == 3 && rng.chance(30) { None } else { host.or(Some("any.test")) },
            headers: request_headers(rng, &wanted),
        });
    }
    Value::Object(out)
}

/// Adds `headers` and `headerMatches`; returns the headers that a request needs.
fn headers(rng: &mut Rng, out: &mut Map<String, Value>) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    if rng.chance(25) {
        let list = rng.some(&HEADERS, 2);
        wanted.extend(&list);
        let list = list.iter().map(|(name, value)| match rng.below(4) {
            0 => json!(name),
            1 => json!(format!("{name} {value}")),
            _ => json!(format!("{name}: {value}")),
        });
        out.insert("headers".into(), list.collect());
    }
    if rng.chance(30) {
        let list = rng.some(&HEADERS, 2);
        wanted.extend(&list);
        let list = list.iter().map(|(name, value)| match rng.below(8) {
            0 => json!({"name": name}),
            1 | 2 => json!({"name": name, "value": value}),
            _ => json!({"name": name, "value": value, "mismatch": rng.pick(&MISMATCH)}),
        });
        out.insert("headerMatches".into(), list.collect());
    }
    wanted
}

/// Every header once: what several values of one mean differs between programs.
fn request_headers(rng: &mut Rng, wanted: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in wanted {
        if out.keys().any(|there| there.eq_ignore_ascii_case(name)) {
            continue;
        }
        let name = if rng.chance(50) { name.to_lowercase() } else { name.to_string() };
        match rng.below(10) {
            0 => {}
            1 => {
                out.insert(name, "wrong".to_string());
            }
            2 if rng.chance(30) => {
                out.insert(name, String::new());
            }
            _ => {
                out.insert(name, value.to_string());
            }
        }
    }
    out
}
