//! The house in order: who may depend on whom, and what no crate may see. Reads `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate -> the workspace crates it may name, in any kind of dependency.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("certs", &[]),
    ("conformance", &["launcher"]),
    ("ebpf-redirect", &["abi"]),
    ("l7-proxy", &["abi", "certs", "parsers", "policy"]),
    ("launcher", &[]),
    ("mesh-agent", &["abi", "certs", "ebpf-redirect", "l7-proxy", "launcher", "parsers", "policy"]),
    ("parsers", &[]),
    ("policy", &["abi"]),
    ("shop", &[]),
    ("xtask", &[]),
];

/// Crate -> packages that must not be anywhere below it (normal and build dependencies).
const NEVER_SEES: &[(&str, &[&str])] = &[
    ("abi", &["tokio", "serde"]),
    ("policy", &["tokio", "hyper", "rustls", "aya", "kube", "prost"]),
    ("parsers", &["policy", "tokio", "hyper"]),
    ("l7-proxy", &["aya", "kube"]),
    ("ebpf-redirect", &["policy", "hyper"]),
];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(text).collect();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(krate, list)| (*krate, list.iter().copied().collect())).collect();
    let ours: BTreeSet<&str> = allowed.keys().copied().collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        if !members.contains(text(&package["id"])) {
            continue;
        }
        let name = text(&package["name"]);
        seen.insert(name);
        let may = allowed.get(name).unwrap_or_else(|| panic!("crate {name} is not in the table"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = text(&dependency["name"]);
            assert!(!ours.contains(to) || may.contains(to), "{name} may not depend on {to}");
        }
    }
    assert_eq!(seen, ours, "the table names every crate of the workspace and no other");
}

#[test]
fn purity_holds_through_every_dependency() {
    for (krate, forbidden) in NEVER_SEES {
        // `cargo tree -p` resolves features for this crate alone, unlike the metadata of the workspace.
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "--edges=normal,build",
                "--prefix=none",
                "--format={lib}",
            ])
            .args(["--package", krate])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        for name in *forbidden {
            assert!(
                !tree.lines().any(|line| line == *name),
                "{krate} must not see {name}, not even through others"
            );
        }
    }
}
