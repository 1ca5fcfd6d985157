use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::{Config, Environment, Version};
use super::error::code;
use super::link::Ends;
use super::*;

fn instance(name: &str) -> Instance {
    name.parse().unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut all = BTreeMap::from([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/none"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u"),
    ]);
    all.extend(variables.iter().copied());
    let variables = all.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Environment { variables }
}

/// Runs a command that must fail before it reaches the kernel; its code and the version of the answer.
fn fails(variables: &[(&str, &str)], stdin: &str) -> (u32, &'static str, String) {
    let (version, error) =
        answer(&environment(variables), stdin.as_bytes(), &instance("cni-no-such-agent")).unwrap_err();
    let json = error.to_json(version);
    assert_eq!(json["code"], json!(error.code));
    (error.code, version.name(), error.to_string())
}

const GOOD: &str = r#"{"cniVersion": "1.1.0", "name": "heddle", "type": "heddle"}"#;

#[test]
fn errors_have_the_codes_of_the_specification() {
    let old = r#"{"cniVersion": "0.2.0", "name": "heddle"}"#;
    let check = r#"{"cniVersion": "1.0.0", "name": "heddle"}"#;
    let unready = r#"{"cniVersion": "1.0.0", "name": "heddle", "prevResult": {"ips": [{"address": 3}]}}"#;
    let (long, huge) = ("c".repeat(300), " ".repeat((1 << 20) + 1));
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.to_str().unwrap();
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, u32, &'a str);
    let table: &[Row<'_>] = &[
        (&[("CNI_COMMAND", "")], GOOD, code::INVALID_ENVIRONMENT, "CNI_COMMAND"),
        (&[("CNI_COMMAND", "add")], GOOD, code::INVALID_ENVIRONMENT, "\"add\""),
        (&[("CNI_CONTAINERID", "")], GOOD, code::INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
        (&[("CNI_CONTAINERID", "../x")], GOOD, code::INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
        (&[("CNI_CONTAINERID", "-x")], GOOD, code::INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
        (&[("CNI_CONTAINERID", &long)], GOOD, code::INVALID_ENVIRONMENT, "300 bytes: 190 at most"),
        (&[("CNI_NETNS", fifo)], GOOD, code::INVALID_ENVIRONMENT, "no network namespace"),
        (&[("CNI_NETNS", "/proc/self/ns/net")], GOOD, code::INVALID_ENVIRONMENT, "node's own namespace"),
        (&[], &huge, code::DECODE_FAILURE, "more than 1048576 bytes"),
        (&[("CNI_IFNAME", "a/b")], GOOD, code::INVALID_ENVIRONMENT, "CNI_IFNAME"),
        (&[("CNI_IFNAME", "..")], GOOD, code::INVALID_ENVIRONMENT, "CNI_IFNAME"),
        (&[("CNI_IFNAME", "sixteencharacter")], GOOD, code::INVALID_ENVIRONMENT, "15 bytes"),
        (&[("CNI_NETNS", "")], GOOD, code::INVALID_ENVIRONMENT, "CNI_NETNS"),
        (&[("CNI_ARGS", "")], GOOD, code::INVALID_ENVIRONMENT, "CNI_ARGS"),
        (&[("CNI_ARGS", "K8S_POD_NAME=x")], GOOD, code::INVALID_ENVIRONMENT, "K8S_POD_NAMESPACE"),
        (&[("CNI_ARGS", "K8S_POD_NAMESPACE=a/b")], GOOD, code::INVALID_ENVIRONMENT, "K8S_POD_NAMESPACE"),
        (&[], "{", code::DECODE_FAILURE, "JSON"),
        (&[], "", code::DECODE_FAILURE, "JSON"),
        (&[], r#"{"name": "heddle"}"#, code::INCOMPATIBLE_VERSION, "0.1.0"),
        (&[], old, code::INCOMPATIBLE_VERSION, "0.4.0, 1.0.0, 1.1.0"),
        (&[], r#"{"cniVersion": "1.1.0"}"#, code::INVALID_CONFIG, "name"),
        (&[], r#"{"cniVersion": "1.1.0", "name": "n", "instance": "A/B"}"#, code::INVALID_CONFIG, "instance"),
        (&[], r#"{"cniVersion": "1.1.0", "name": "n", "prevResult": {}}"#, code::UNSUPPORTED_FIELD, "first"),
        (&[], GOOD, code::UNKNOWN_CONTAINER, "/run/netns/none"),
        (&[("CNI_COMMAND", "CHECK")], check, code::INVALID_CONFIG, "prevResult"),
        (&[("CNI_COMMAND", "CHECK")], unready, code::INVALID_CONFIG, "prevResult"),
        (&[("CNI_COMMAND", "GC")], GOOD, code::INVALID_CONFIG, "valid-attachments"),
        (&[("CNI_COMMAND", "GC")], check, code::INCOMPATIBLE_VERSION, "GC needs"),
        (&[("CNI_COMMAND", "STATUS")], check, code::INCOMPATIBLE_VERSION, "STATUS needs"),
        (&[("CNI_COMMAND", "STATUS")], GOOD, code::UNAVAILABLE, "agent.sock"),
    ];
    for (variables, stdin, want, part) in table {
        let (code, _, text) = fails(variables, stdin);
        assert_eq!(code, *want, "{variables:?} {stdin}: {text}");
        assert!(text.contains(part), "{text:?} should name {part:?}");
    }
}

#[test]
fn an_error_answers_in_the_version_of_the_configuration() {
    let (_, version, _) = fails(&[("CNI_COMMAND", "CHECK")], r#"{"cniVersion": "0.4.0", "name": "heddle"}"#);
    assert_eq!(version, "0.4.0");
    let (_, version, _) = fails(&[], "{");
    assert_eq!(version, "1.1.0");
}

#[test]
fn version_repeats_the_question() {
    let ask = |stdin: &str| {
        let environment = environment(&[("CNI_COMMAND", "VERSION")]);
        answer(&environment, stdin.as_bytes(), &instance("x")).unwrap().unwrap()
    };
    let supported = json!(["0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(
        ask(r#"{"cniVersion": "1.0.0"}"#),
        json!({"cniVersion": "1.0.0", "supportedVersions": supported})
    );
    assert_eq!(ask("")["cniVersion"], "1.1.0");
}

#[test]
fn configuration_names_the_instance_and_the_living() {
    let config = Config::parse(
        br#"{"cniVersion": "1.1.0", "name": "n", "instance": "two", "capabilities": {"io": true},
             "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}"#,
        &instance("one"),
    )
    .unwrap();
    assert_eq!(config.instance, instance("two"));
    let alive = Attachment { container_id: "a".into(), ifname: "eth0".into() };
    assert_eq!(config.valid_attachments, Some(vec![alive]));
    assert_eq!(Config::parse(GOOD.as_bytes(), &instance("one")).unwrap().instance, instance("one"));
}

fn result(version: Version) -> Value {
    let allocation: Allocation = serde_json::from_value(json!({
        "endpointId": 7, "hostIfname": "hdl0000beef", "mtu": 1450,
        "addresses": [
            {"ip": "10.244.0.5", "gateway": "169.254.1.1"},
            {"ip": "fd00:10:244::5", "gateway": "fe80::1"},
        ],
    }))
    .unwrap();
    let ends = Ends { host_index: 9, host_mac: link::Mac::default(), pod_mac: link::Mac::default() };
    result::add_result(version, &allocation, &ends, "eth0", "/run/netns/x")
}

#[test]
fn results_follow_the_version() {
    let newest = result(Version::V1_1);
    let mac = "00:00:00:00:00:00";
    assert_eq!(
        newest,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "hdl0000beef", "mac": mac, "mtu": 1450},
                {"name": "eth0", "mac": mac, "sandbox": "/run/netns/x", "mtu": 1450},
            ],
            "ips": [
                {"interface": 1, "address": "10.244.0.5/32", "gateway": "169.254.1.1"},
                {"interface": 1, "address": "fd00:10:244::5/128", "gateway": "fe80::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
            "dns": {},
        })
    );
    assert_eq!(result(Version::V1_0)["interfaces"][0].get("mtu"), None);
    assert_eq!(result(Version::V1_0)["ips"][0].get("version"), None);
    assert_eq!(result(Version::V0_4)["ips"][1]["version"], "6");
}

#[test]
fn check_reads_the_addresses_back() {
    for version in [Version::V0_4, Version::V1_0, Version::V1_1] {
        let addresses = result::addresses_of(&result(version)).unwrap();
        assert_eq!(addresses.len(), 2, "{version:?}");
    }
    let other = json!({"ips": [{"interface": 0, "address": "10.0.0.1/24"}]});
    assert_eq!(result::addresses_of(&other), Some(vec![]));
    assert_eq!(result::addresses_of(&json!({"ips": [{"address": "x/24"}]})), None);
    assert_eq!(result::addresses_of(&json!({})), None);
}

#[test]
fn deletions_wait_until_done() {
    let dir = std::env::temp_dir().join(format!("hdl-cni-del-{}", std::process::id()));
    let attachment = |id: &str| Attachment { container_id: id.into(), ifname: "eth0".into() };
    assert!(pending_deletions(&dir).unwrap().0.is_empty(), "no folder is no deletion");
    for id in ["b", "a", "a"] {
        deletions::queue(&dir, &attachment(id)).unwrap();
    }
    deletions::queue(&dir, &attachment("c")).unwrap();
    deletions::withdraw(&dir, &attachment("c"));
    std::fs::write(dir.join("cni-del/torn.json"), "{").unwrap();
    let (pending, unreadable) = pending_deletions(&dir).unwrap();
    let ids: Vec<_> = pending.iter().map(|p| p.attachment.container_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(unreadable.len(), 1);
    for deletion in pending {
        deletion.done().unwrap();
    }
    assert!(pending_deletions(&dir).unwrap().0.is_empty());
    std::fs::remove_dir_all(&dir).unwrap();
}
