//! What stays the same between revisions.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::Compiler;

fn shop() -> Snapshot {
    let mut snapshot = cluster();
    add_pod(&mut snapshot, "default/a", &["10.0.0.1"], &[]);
    add_pod(&mut snapshot, "default/b", &["10.0.0.2"], &[]);
    add_pod(&mut snapshot, "default/c", &["10.0.0.3"], &[]);
    add_cnp(
        &mut snapshot,
        "a",
        "a",
        json!({"ingress": [{"fromEndpoints": [{"matchLabels": {"app": "b"}}]}]}),
    );
    add_cnp(&mut snapshot, "b", "b", json!({"egress": [{"toCIDR": ["192.0.2.0/24"]}]}));
    snapshot
}

#[test]
fn endpoints_that_nothing_selects_share_one_policy() {
    let mut snapshot = shop();
    add_pod(&mut snapshot, "far/d", &["10.0.0.4"], &[]);
    let compiled = compile(&snapshot);
    let of = |name: &str| &compiled.endpoints[&snapshot.endpoints[name].id];
    assert!(Arc::ptr_eq(of("default/c"), of("far/d")));
    assert!(!Arc::ptr_eq(of("default/a"), of("far/d")));
}

#[test]
fn only_what_is_concerned_is_built_anew() {
    let mut compiler = Compiler::default();
    let first = shop();
    let before = compiler.compile(&first);
    let same = compiler.compile(&first);
    for (id, policy) in &same.endpoints {
        assert!(Arc::ptr_eq(policy, &before.endpoints[id]), "endpoint {id} was built anew");
    }
    // Another pod with label `app: b` concerns the policy of a alone.
    let mut second = first.clone();
    add_labelled(&mut second, "default/b2", &labels(&[("app", "b"), ("v", "2")]), &["10.0.0.9"], &[]);
    let after = compiler.compile(&second);
    let id = |name: &str| second.endpoints[name].id;
    assert!(!Arc::ptr_eq(&after.endpoints[&id("default/a")], &before.endpoints[&id("default/a")]));
    assert!(Arc::ptr_eq(&after.endpoints[&id("default/b")], &before.endpoints[&id("default/b")]));
    assert!(Arc::ptr_eq(&after.endpoints[&id("default/c")], &before.endpoints[&id("default/c")]));
}

#[test]
fn numbers_stay() {
    let mut compiler = Compiler::default();
    let mut snapshot = shop();
    let before = compiler.compile(&snapshot);
    let prefix = "192.0.2.0/24".parse().unwrap();
    add_cnp(&mut snapshot, "more", "c", json!({"egress": [{"toCIDR": ["192.0.2.0/25", "10.0.0.0/8"]}]}));
    let after = compiler.compile(&snapshot);
    assert_eq!(before.ipcache[&prefix], after.ipcache[&prefix]);
    for (number, rule) in &before.rules {
        assert_eq!(after.rules.get(number), Some(rule));
    }
    // A process that starts anew comes to the same numbers.
    let anew = compile(&snapshot);
    assert_eq!((&anew.ipcache, &anew.rules), (&after.ipcache, &after.rules));
}

#[test]
fn a_changed_setting_is_seen() {
    let mut compiler = Compiler::default();
    let mut snapshot = shop();
    compiler.compile(&snapshot);
    snapshot.settings.enforcement = crate::snapshot::Enforcement::Always;
    let compiled = compiler.compile(&snapshot);
    let decision = ask(&compiled, &snapshot, Direction::Egress, "default/c", "10.0.0.1", 6, 80);
    assert_ne!(decision.verdict, Verdict::Allow);
}
