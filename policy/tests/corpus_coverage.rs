//! What the random corpus covers, counted from its files: every rule field in at least 50 cases, every
//! verdict in a fair share of the queries. Says nothing of whether we agree with the verdicts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

#[path = "corpus/files.rs"]
mod files;

/// Cases that each fact of [`REQUIRED`] has to be in.
const CASES_PER_FACT: usize = 50;

/// Fields by path (lists are transparent; CNP and CCNP count as one) and notable values, as [`facts`]
/// names them.
const REQUIRED: &[&str] = &[
    "kind CiliumClusterwideNetworkPolicy",
    "kind CiliumNetworkPolicy",
    "kind NetworkPolicy",
    "several policies",
    "config allowLocalhost",
    "config enforcement",
    "config ipv6",
    "specs",
    "rule description",
    "rule labels",
    "rule log.value",
    "rule endpointSelector",
    "rule endpointSelector {}",
    "rule endpointSelector.matchLabels",
    "rule endpointSelector.matchExpressions",
    "rule enableDefaultDeny.ingress false",
    "rule enableDefaultDeny.ingress true",
    "rule enableDefaultDeny.egress false",
    "rule enableDefaultDeny.egress true",
    "rule ingress {}",
    "rule egress {}",
    "rule ingress.fromEndpoints",
    "rule ingress.fromEndpoints []",
    "rule ingress.fromEndpoints {}",
    "rule ingress.fromEndpoints.matchLabels",
    "rule ingress.fromEndpoints.matchExpressions",
    "rule ingress.fromEntities",
    "rule ingress.fromCIDR",
    "rule ingress.fromCIDRSet.cidr",
    "rule ingress.fromCIDRSet.except",
    "rule ingress.toPorts.ports.port",
    "rule ingress.toPorts.ports.endPort",
    "rule ingress.toPorts.ports.protocol",
    "rule ingress.toPorts.rules.http",
    "rule ingress.toPorts.rules.http {}",
    "rule ingress.toPorts.rules.http.method",
    "rule ingress.toPorts.rules.http.path",
    "rule ingress.toPorts.rules.http.host",
    "rule ingress.toPorts.rules.http.headers",
    "rule ingress.toPorts.rules.http.headerMatches.name",
    "rule ingress.toPorts.rules.http.headerMatches.value",
    "rule ingress.toPorts.rules.http.headerMatches.mismatch",
    "rule ingress.icmps.fields.type",
    "rule ingress.icmps.fields.family",
    "rule egress.toEndpoints",
    "rule egress.toEndpoints []",
    "rule egress.toEndpoints {}",
    "rule egress.toEndpoints.matchLabels",
    "rule egress.toEndpoints.matchExpressions",
    "rule egress.toEntities",
    "rule egress.toCIDR",
    "rule egress.toCIDRSet.cidr",
    "rule egress.toCIDRSet.except",
    "rule egress.toPorts.ports.port",
    "rule egress.toPorts.ports.endPort",
    "rule egress.toPorts.ports.protocol",
    "rule egress.toPorts.rules.http",
    "rule egress.toPorts.rules.http {}",
    "rule egress.toPorts.rules.http.method",
    "rule egress.toPorts.rules.http.path",
    "rule egress.toPorts.rules.http.host",
    "rule egress.toPorts.rules.http.headers",
    "rule egress.toPorts.rules.http.headerMatches.name",
    "rule egress.toPorts.rules.http.headerMatches.value",
    "rule egress.toPorts.rules.http.headerMatches.mismatch",
    "rule egress.icmps.fields.type",
    "rule egress.icmps.fields.family",
    "rule ingressDeny.fromEndpoints",
    "rule ingressDeny.fromEntities",
    "rule ingressDeny.fromCIDR",
    "rule ingressDeny.fromCIDRSet.cidr",
    "rule ingressDeny.fromCIDRSet.except",
    "rule ingressDeny.toPorts.ports.port",
    "rule ingressDeny.toPorts.ports.endPort",
    "rule ingressDeny.icmps.fields.type",
    "rule egressDeny.toEndpoints",
    "rule egressDeny.toEntities",
    "rule egressDeny.toCIDR",
    "rule egressDeny.toCIDRSet.cidr",
    "rule egressDeny.toCIDRSet.except",
    "rule egressDeny.toPorts.ports.port",
    "rule egressDeny.toPorts.ports.endPort",
    "rule egressDeny.icmps.fields.type",
    "entity all",
    "entity cluster",
    "entity health",
    "entity host",
    "entity ingress",
    "entity init",
    "entity kube-apiserver",
    "entity none",
    "entity remote-node",
    "entity unmanaged",
    "entity world",
    "operator In",
    "operator NotIn",
    "operator Exists",
    "operator DoesNotExist",
    "label prefix any",
    "label prefix k8s",
    "label prefix reserved",
    "label io.kubernetes.pod.namespace",
    "label io.cilium.k8s.namespace.labels",
    "label io.cilium.k8s.policy.serviceaccount",
    "port 0",
    "port number",
    "port name",
    "protocol left out",
    "protocol ANY",
    "protocol SCTP",
    "protocol TCP",
    "protocol UDP",
    "icmp type name",
    "icmp type number",
    "icmp family IPv4",
    "icmp family IPv6",
    "mismatch ADD",
    "mismatch DELETE",
    "mismatch LOG",
    "mismatch REPLACE",
    "mismatch left out",
    "np podSelector",
    "np podSelector.matchLabels",
    "np podSelector.matchExpressions",
    "np policyTypes",
    "np ingress.from.podSelector",
    "np ingress.from.namespaceSelector",
    "np ingress.from.ipBlock.cidr",
    "np ingress.from.ipBlock.except",
    "np ingress.ports.port",
    "np ingress.ports.endPort",
    "np ingress.ports.protocol",
    "np egress.to.podSelector",
    "np egress.to.namespaceSelector",
    "np egress.to.ipBlock.cidr",
    "np egress.ports.port",
    "np egress.ports.endPort",
    "np egress.ports.protocol",
];

#[test]
fn every_rule_field_is_in_enough_cases() {
    let cases = files::cases("random-");
    assert!(cases.len() >= 2000, "{} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().filter_map(|case| case["name"].as_str()).collect();
    assert_eq!(names.len(), cases.len(), "case names are not unique");
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for fact in cases.iter().flat_map(facts) {
        *count.entry(fact).or_default() += 1;
    }
    println!("{count:#?}");
    let few: Vec<_> = REQUIRED
        .iter()
        .map(|fact| (fact, count.get(*fact).copied().unwrap_or(0)))
        .filter(|(_, n)| *n < CASES_PER_FACT)
        .collect();
    assert!(few.is_empty(), "in fewer than {CASES_PER_FACT} cases: {few:?}");
}

#[test]
fn every_verdict_has_its_share() {
    let cases = files::cases("random-");
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut requests: BTreeMap<&str, usize> = BTreeMap::new();
    for query in cases.iter().flat_map(|case| case["queries"].as_array().expect("queries")) {
        let want = query["want"].as_str().expect("a verdict");
        *count.entry(want).or_default() += 1;
        if want == "redirect" && query["http"].is_object() {
            *requests.entry(query["wantL7"].as_str().expect("a verdict of layer 7")).or_default() += 1;
        }
    }
    println!("{count:?}, redirected requests {requests:?}");
    let all: usize = count.values().sum();
    let percent = |verdict: &str| 100 * count[verdict] / all;
    assert!(percent("allow") >= 20 && percent("deny") >= 20 && percent("redirect") >= 5, "{count:?}");
    let all: usize = requests.values().sum();
    assert!(requests.values().all(|n| 100 * n / all >= 20), "redirected requests: {requests:?}");
}

/// Everything of [`REQUIRED`]'s kind that a case has.
fn facts(case: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let policies = case["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    if policies.len() > 1 {
        out.insert("several policies".to_string());
    }
    for name in case["config"].as_object().into_iter().flat_map(|c| c.keys()) {
        out.insert(format!("config {name}"));
    }
    for policy in policies {
        let kind = policy["kind"].as_str().expect("a kind");
        out.insert(format!("kind {kind}"));
        let root = if kind == "NetworkPolicy" { "np" } else { "rule" };
        walk(&policy["spec"], root, "", &mut out);
        for spec in policy["specs"].as_array().into_iter().flatten() {
            out.insert("specs".to_string());
            walk(spec, root, "", &mut out);
        }
    }
    out
}

fn walk(value: &Value, root: &str, path: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if fields.is_empty() {
                out.insert(format!("{root} {path} {{}}"));
            }
            if path.ends_with(".ports") && root == "rule" && !fields.contains_key("protocol") {
                out.insert("protocol left out".to_string());
            }
            if path.ends_with(".headerMatches") && !fields.contains_key("mismatch") {
                out.insert("mismatch left out".to_string());
            }
            for (name, field) in fields {
                if path.ends_with("matchLabels") {
                    label(name, out);
                    continue;
                }
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                out.insert(format!("{root} {path}"));
                walk(field, root, &path, out);
            }
        }
        Value::Array(list) => {
            if list.is_empty() {
                out.insert(format!("{root} {path} []"));
            }
            for item in list {
                walk(item, root, path, out);
            }
        }
        leaf => notable(leaf, root, path, out),
    }
}

/// Values that are worth counting by themselves.
fn notable(leaf: &Value, root: &str, path: &str, out: &mut BTreeSet<String>) {
    let text = leaf.as_str().map_or_else(|| leaf.to_string(), String::from);
    let last = path.rsplit('.').next().unwrap_or_default();
    let number = text.parse::<u16>().ok();
    let fact = match last {
        "fromEntities" | "toEntities" => format!("entity {text}"),
        "operator" => format!("operator {text}"),
        "key" => return label(&text, out),
        "port" if number == Some(0) => "port 0".to_string(),
        "port" if number.is_some() => "port number".to_string(),
        "port" => "port name".to_string(),
        "protocol" => format!("protocol {text}"),
        "type" if number.is_some() => "icmp type number".to_string(),
        "type" => "icmp type name".to_string(),
        "family" => format!("icmp family {text}"),
        "mismatch" => format!("mismatch {text}"),
        "ingress" | "egress" => format!("{root} {path} {text}"),
        _ => return,
    };
    out.insert(fact);
}

fn label(key: &str, out: &mut BTreeSet<String>) {
    let (prefix, key) = key.split_once(':').unwrap_or(("", key));
    if !prefix.is_empty() {
        out.insert(format!("label prefix {prefix}"));
    }
    const KNOWN: [&str; 3] = [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.namespace.labels",
        "io.cilium.k8s.policy.serviceaccount",
    ];
    for known in KNOWN.iter().filter(|known| key.starts_with(**known)) {
        out.insert(format!("label {known}"));
    }
}
