//! What is wrong with an object, and what a refused object does: it denies its subjects.

use std::fmt;

use abi::Direction;
use serde_json::Value;

use super::raw::RawSelector;
use super::selector::{self, Requirement, Selector};
use super::{Action, CCNP, NETWORK_POLICY, Peers, Rule, Tier};
use crate::snapshot::PolicyObject;

/// Why an object was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    pub kind: String,
    /// Empty for a cluster-wide object.
    pub namespace: String,
    pub name: String,
    /// Field path, such as `spec.egress[0].toCIDR[1]`.
    pub path: String,
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}: ", self.name)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl Refusal {
    pub(super) fn new(object: ObjectRef, fault: Fault) -> Self {
        let ObjectRef { kind, namespace, name } = object;
        Self { kind, namespace, name, path: fault.path, reason: fault.reason }
    }

    /// Path and reason as one line, without the object's name.
    pub fn message(&self) -> String {
        if self.path.is_empty() { self.reason.clone() } else { format!("{}: {}", self.path, self.reason) }
    }
}

/// A field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// The field is right, but nothing here acts on it yet.
    pub(super) fn not_enforced(path: impl Into<String>) -> Self {
        Self::new(
            path,
            "not yet enforced by this version; the policy is refused so that nothing is silently open",
        )
    }
}

/// The name of an object, read as far as it can be.
#[derive(Clone, Debug)]
pub(super) struct ObjectRef {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ObjectRef {
    pub(super) fn read(kind: &str, manifest: &Value) -> Self {
        let text = |field: &str| {
            manifest.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        let namespace = match (kind, text("namespace")) {
            (CCNP, _) => String::new(),
            (_, ns) if ns.is_empty() => "default".to_owned(),
            (_, ns) => ns,
        };
        Self { kind: kind.to_owned(), namespace, name: text("name") }
    }
}

/// What stands for an object that was refused and never valid before: it denies everything to and from its
/// subjects in the directions it speaks of (both, if that cannot be read). Its subjects are those of its
/// selector; if that cannot be read, the whole namespace, and for a cluster-wide object nobody: that is the
/// one case where a refused policy denies nothing and only its message tells of it.
pub fn refused_object(kind: &str, manifest: &Value, refusal: &Refusal) -> PolicyObject {
    let object = ObjectRef::read(kind, manifest);
    let mut rules = Vec::new();
    let specs = specs(manifest);
    if specs.is_empty() {
        deny(&object, "spec", &Value::Null, &mut rules);
    }
    for (path, spec) in specs {
        deny(&object, &path, spec, &mut rules);
    }
    PolicyObject {
        refused: Some(refusal.message()),
        kind: object.kind,
        namespace: object.namespace,
        name: object.name,
        rules,
    }
}

fn specs(manifest: &Value) -> Vec<(String, &Value)> {
    let one = manifest.get("spec").map(|spec| ("spec".to_owned(), spec));
    let many = manifest.get("specs").and_then(Value::as_array).into_iter().flatten();
    let many = many.enumerate().map(|(i, spec)| (format!("specs[{i}]"), spec));
    one.into_iter().chain(many).collect()
}

fn deny(object: &ObjectRef, path: &str, spec: &Value, rules: &mut Vec<Rule>) {
    let Some(subject) = subject(object, spec) else { return };
    for direction in directions(&object.kind, spec) {
        rules.push(Rule {
            path: path.to_owned(),
            subject: subject.clone(),
            direction,
            action: Action::Refuse,
            tier: Tier::Normal,
            priority: 0,
            default_deny: true,
            peers: Peers::Any,
            ports: None,
        });
    }
}

fn subject(object: &ObjectRef, spec: &Value) -> Option<Selector> {
    let k8s = object.kind == NETWORK_POLICY;
    let field = if k8s { "podSelector" } else { "endpointSelector" };
    let read = spec.get(field).and_then(|v| serde_json::from_value::<RawSelector>(v.clone()).ok());
    let read = read.and_then(|raw| selector::Selector::read(&raw, "", k8s).ok());
    match read {
        Some(selector) if object.namespace.is_empty() => Some(selector),
        Some(selector) => Some(selector.in_namespace(&object.namespace)),
        None if object.namespace.is_empty() => None,
        None => Some(Selector { all: vec![Requirement::namespace(&object.namespace)] }),
    }
}

/// The directions that a spec speaks of, also when what it says there cannot be read.
fn directions(kind: &str, spec: &Value) -> Vec<Direction> {
    let has = |field: &str| spec.get(field).is_some();
    let mut ingress = has("ingress") || has("ingressDeny");
    let mut egress = has("egress") || has("egressDeny");
    if kind == NETWORK_POLICY {
        match spec.get("policyTypes").and_then(Value::as_array) {
            Some(types) => {
                ingress |= types.iter().any(|t| t != "Egress");
                egress |= types.iter().any(|t| t != "Ingress");
            }
            None => ingress = true,
        }
    }
    // A field that is misspelt may have been meant for either.
    let known = ["endpointSelector", "nodeSelector", "podSelector", "policyTypes", "description", "labels"];
    let known = |k: &str| {
        known.contains(&k)
            || ["ingress", "ingressDeny", "egress", "egressDeny", "enableDefaultDeny", "log"].contains(&k)
    };
    let misspelt = !spec.as_object().is_some_and(|fields| fields.keys().all(|k| known(k)));
    if misspelt || !(ingress || egress) {
        (ingress, egress) = (true, true);
    }
    let both = [(ingress, Direction::Ingress), (egress, Direction::Egress)];
    both.into_iter().filter(|(on, _)| *on).map(|(_, direction)| direction).collect()
}
