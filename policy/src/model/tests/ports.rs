//! Ports, blocks of addresses, ICMP types and what hangs on ports.

use abi::proto;

use super::*;
use crate::l7::{HeaderRule, MismatchAction};

#[test]
fn ports() {
    let check = |port: Value, expected: &[PortSpec]| {
        let rule = json!({"toPorts": [{"ports": [port]}]});
        let rule = rules(CNP, &one("ingress", rule)).remove(0);
        let list: Vec<PortSpec> = rule.ports.unwrap()[0].ports.iter().map(|p| p.port.clone()).collect();
        assert_eq!(list, expected, "{port}");
    };
    let three = |p: PortSpec| vec![p.clone(), p.clone(), p];
    check(json!({"port": "80", "protocol": "TCP"}), &[PortSpec::Range(80, 80)]);
    check(json!({"port": "53"}), &three(PortSpec::Range(53, 53)));
    check(json!({"port": "53", "protocol": "ANY"}), &three(PortSpec::Range(53, 53)));
    check(json!({"port": "0", "protocol": "UDP"}), &[PortSpec::Any]);
    check(json!({"port": "1", "endPort": 65535, "protocol": "TCP"}), &[PortSpec::Range(1, 65535)]);
    check(json!({"port": "1", "endPort": 0, "protocol": "TCP"}), &[PortSpec::Range(1, 1)]);
    check(json!({"port": "HTTP", "protocol": "TCP"}), &[PortSpec::Name("http".into(), None)]);
    check(
        json!({"port": "web-1", "endPort": 90, "protocol": "TCP"}),
        &[PortSpec::Name("web-1".into(), Some(90))],
    );

    let bad = |port: Value, field: &str, reason: &str| {
        let rule = json!({"toPorts": [{"ports": [port]}]});
        let path = format!("spec.ingress[0].toPorts[0].ports[0].{field}");
        refuses(CNP, &one("ingress", rule), &path, reason);
    };
    bad(json!({"port": "010"}), "port", "leading zero");
    bad(json!({"port": "65536"}), "port", "above");
    bad(json!({"port": "-1"}), "port", "neither");
    bad(json!({"port": ""}), "port", "neither");
    bad(json!({"port": "a--b"}), "port", "neither");
    bad(json!({}), "port", "given");
    bad(json!({"port": 80}), "port", "string");
    bad(json!({"port": "8080", "endPort": 80}), "endPort", "below");
    bad(json!({"port": "80", "endPort": 70000}), "endPort", "65535");
    bad(json!({"port": "0", "endPort": 80}), "endPort", "any port");
    bad(json!({"port": "80", "protocol": "tcp"}), "protocol", "not one of");
    bad(json!({"port": "8", "protocol": "ICMP"}), "protocol", "icmps");
    bad(json!({"port": "0", "protocol": "ESP"}), "protocol", "no policy can allow");
    let many: Vec<Value> = (1..=41).map(|p| json!({"port": p.to_string()})).collect();
    let rule = json!({"toPorts": [{"ports": many}]});
    refuses(CNP, &one("ingress", rule), "spec.ingress[0].toPorts[0].ports", "the most is 40");
}

#[test]
fn ports_of_network_policies() {
    let check = |port: Value, expected: PortMatch| {
        let np = netpol(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        let rule = rules(NETWORK_POLICY, &np).remove(0);
        assert_eq!(rule.ports.unwrap()[0].ports, [expected], "{port}");
    };
    let tcp = |port| PortMatch { proto: proto::TCP, port };
    check(json!({}), tcp(PortSpec::Any));
    check(json!({"port": 80}), tcp(PortSpec::Range(80, 80)));
    check(json!({"port": "web"}), tcp(PortSpec::Name("web".into(), None)));
    check(json!({"port": 80, "endPort": 90}), tcp(PortSpec::Range(80, 90)));
    check(
        json!({"port": 53, "protocol": "UDP"}),
        PortMatch { proto: proto::UDP, port: PortSpec::Range(53, 53) },
    );
    for (port, field) in [
        (json!({"port": 70000}), "port"),
        (json!({"port": 0}), "port"),
        (json!({"port": "80"}), "port"),
        (json!({"endPort": 90}), "endPort"),
        (json!({"port": "web", "endPort": 90}), "endPort"),
        (json!({"port": 80, "protocol": "ICMP"}), "protocol"),
    ] {
        let np = netpol(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        refuses(NETWORK_POLICY, &np, &format!("spec.ingress[0].ports[0].{field}"), "");
    }
}

#[test]
fn directions_of_network_policies() {
    let check = |spec: Value, expected: &[Direction]| {
        let mut spec = spec;
        spec["podSelector"] = json!({});
        let rules = rules(NETWORK_POLICY, &netpol(spec.clone()));
        let closed: Vec<Direction> = rules.iter().map(|r| r.direction).collect();
        assert_eq!(closed, expected, "{spec}");
    };
    use Direction::{Egress, Ingress};
    check(json!({}), &[Ingress]);
    check(json!({"policyTypes": ["Egress"]}), &[Egress]);
    check(json!({"policyTypes": ["Ingress", "Egress"]}), &[Ingress, Egress]);
    check(json!({"egress": [{}]}), &[Ingress, Egress]);
    check(json!({"ingress": [{}], "policyTypes": ["Ingress"]}), &[Ingress]);
}

#[test]
fn blocks_of_addresses() {
    let bad = |cidr: &str, reason: &str| {
        refuses(CNP, &one("egress", json!({"toCIDR": [cidr]})), "spec.egress[0].toCIDR[0]", reason);
    };
    bad("10.1.2.3", "10.1.2.3/32");
    bad("fd00::1", "fd00::1/128");
    bad("10.0.0.0/33", "not a block");
    bad("10.0.0.0/08", "not a block");
    bad("::ffff:10.0.0.0/104", "IPv4-mapped");
    let Peers::Of(list) = rules(CNP, &one("egress", json!({"toCIDR": ["10.1.2.3/8"]}))).remove(0).peers
    else {
        panic!("anybody")
    };
    let cidr = CidrPeer { cidr: "10.0.0.0/8".parse().unwrap(), except: Vec::new(), pods: false };
    assert_eq!(list, [Peer::Cidr(cidr)], "bits behind the prefix do not count");
    let set = |s: Value| one("egress", json!({"toCIDRSet": [s]}));
    let at = "spec.egress[0].toCIDRSet[0]";
    refuses(
        CNP,
        &set(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]})),
        &format!("{at}.except[0]"),
        "inside",
    );
    refuses(
        CNP,
        &set(json!({"cidr": "10.0.0.0/8", "except": ["::/0"]})),
        &format!("{at}.except[0]"),
        "inside",
    );
    refuses(CNP, &set(json!({"cidr": "10.0.0.0/8", "cidrGroupRef": "g"})), at, "exactly one");
    refuses(CNP, &set(json!({})), at, "exactly one");
    refuses(CNP, &set(json!({"cidrGroupRef": "g"})), &format!("{at}.cidrGroupRef"), "not yet enforced");
}

#[test]
fn icmp_types() {
    let check = |field: Value, proto: u8, number: u16| {
        let rule = rules(CNP, &one("ingress", json!({"icmps": [{"fields": [field]}]}))).remove(0);
        let expected = PortMatch { proto, port: PortSpec::Range(number, number) };
        assert_eq!(rule.ports.unwrap()[0].ports, [expected], "{field}");
    };
    check(json!({"type": 8}), proto::ICMP, 8);
    check(json!({"type": "8", "family": "IPv4"}), proto::ICMP, 8);
    check(json!({"type": "EchoReply"}), proto::ICMP, 0);
    check(json!({"type": 0}), proto::ICMP, 0);
    check(json!({"type": "EchoRequest", "family": "IPv6"}), proto::ICMPV6, 128);
    let bad = |field: Value, name: &str| {
        let rule = json!({"icmps": [{"fields": [field]}]});
        refuses(CNP, &one("ingress", rule), &format!("spec.ingress[0].icmps[0].fields[0].{name}"), "");
    };
    bad(json!({"type": 256}), "type");
    bad(json!({"type": -1}), "type");
    bad(json!({"type": 1.5}), "type");
    bad(json!({"type": "08"}), "type");
    bad(json!({"type": "Ping"}), "type");
    bad(json!({"type": "PacketTooBig"}), "type");
    bad(json!({"type": 8, "family": "IPv5"}), "family");
    let both = json!({"icmps": [{"fields": [{"type": 8}]}], "toPorts": [{"ports": [{"port": "80"}]}]});
    refuses(CNP, &one("ingress", both), "spec.ingress[0].icmps", "toPorts");
}

fn http(rule: Value) -> Value {
    let ports = json!([{"port": "80", "protocol": "TCP"}]);
    one("ingress", json!({"toPorts": [{"ports": ports, "rules": {"http": [rule]}}]}))
}

#[test]
fn http_rules() {
    let manifest = http(json!({
        "method": "GET", "path": "", "host": "a[.]b",
        "headers": ["X-Trace", "X-Token: a b", "X-Odd value"],
        "headerMatches": [{"name": "X-Env", "value": "prod", "mismatch": "REPLACE"}, {"name": "X-Any", "value": ""}],
    }));
    let rule = rules(CNP, &manifest).remove(0).ports.unwrap().remove(0).http.unwrap().remove(0);
    let header = |name: &str, value: Option<&str>, mismatch| HeaderRule {
        name: name.into(),
        value: value.map(Into::into),
        mismatch,
    };
    use MismatchAction::{Fail, Replace};
    assert_eq!((rule.method.as_deref(), rule.path, rule.host.as_deref()), (Some("GET"), None, Some("a[.]b")));
    assert_eq!(
        rule.headers,
        [
            header("x-trace", None, Fail),
            header("x-token", Some("a b"), Fail),
            header("x-odd", Some("value"), Fail),
            header("x-env", Some("prod"), Replace),
            header("x-any", None, Fail),
        ]
    );
    let at = "spec.ingress[0].toPorts[0].rules.http[0]";
    let bad =
        |rule: Value, field: &str, reason: &str| refuses(CNP, &http(rule), &format!("{at}.{field}"), reason);
    bad(json!({"path": "/a(b"}), "path", "unclosed group");
    bad(json!({"host": "a(b"}), "host", "unclosed group");
    bad(json!({"method": "GET["}), "method", "unclosed");
    bad(json!({"path": "/(?!a).*"}), "path", "look-around");
    bad(json!({"headers": ["X-Token:value"]}), "headers[0]", "with a space");
    bad(json!({"headers": ["X Token: \u{7}"]}), "headers[0]", "control");
    bad(json!({"headers": [": x"]}), "headers[0]", "header name");
    bad(
        json!({"headerMatches": [{"name": "x", "mismatch": "EXPLODE"}]}),
        "headerMatches[0].mismatch",
        "not one of",
    );
    bad(json!({"headerMatches": [{"name": "x", "mismatch": "ADD"}]}), "headerMatches[0].value", "to write");
    bad(
        json!({"headerMatches": [{"name": "x", "secret": {"name": "s"}}]}),
        "headerMatches[0].secret",
        "not yet",
    );
}

#[test]
fn layer_7_rules_need_tcp_and_a_port() {
    let with =
        |port: Value, rules: Value| one("ingress", json!({"toPorts": [{"ports": [port], "rules": rules}]}));
    let at = "spec.ingress[0].toPorts[0]";
    let any = json!({"http": [{}]});
    refuses(CNP, &with(json!({"port": "80"}), any.clone()), &format!("{at}.ports[0].protocol"), "TCP");
    refuses(
        CNP,
        &with(json!({"port": "80", "protocol": "UDP"}), any.clone()),
        &format!("{at}.ports[0].protocol"),
        "TCP",
    );
    refuses(
        CNP,
        &with(json!({"port": "0", "protocol": "TCP"}), any),
        &format!("{at}.ports[0].port"),
        "not 0",
    );
    let tcp = json!({"port": "80", "protocol": "TCP"});
    refuses(
        CNP,
        &with(tcp.clone(), json!({"http": [{}], "dns": [{"matchName": "a"}]})),
        &format!("{at}.rules"),
        "one of",
    );
    refuses(CNP, &with(tcp.clone(), json!({})), &format!("{at}.rules"), "one of");
    refuses(
        CNP,
        &with(tcp.clone(), json!({"kafka": [{"topic": "t"}]})),
        &format!("{at}.rules.kafka"),
        "not yet",
    );
    refuses(
        CNP,
        &with(tcp.clone(), json!({"dns": [{"matchName": "a"}]})),
        &format!("{at}.rules.dns"),
        "egress only",
    );
    let rule = rules(CNP, &with(tcp, json!({"http": []}))).remove(0);
    assert_eq!(rule.ports.unwrap()[0].http, None, "an empty list is no layer 7 rule");
}
