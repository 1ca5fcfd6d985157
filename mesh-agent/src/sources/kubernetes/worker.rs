//! The thread that takes what the watches have seen, and publishes it once everything was listed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::inbox::{Batch, Inbox, Subject, Woken};
use super::objects::Item;
use super::report::{self, Opinion, Reported, Reports};
use crate::sources::Surrounding;
use crate::sources::file::Contents;
use crate::sources::object::{Kind, Object, ObjectKey};
use crate::sources::outlet::Outlet;
use crate::sources::problem::{Fault, Problem, Severity};
use crate::sources::store::Change;

/// How often the log says what the first state waits for.
const TICK: Duration = Duration::from_secs(10);
/// Changes are gathered at least for as long.
const GATHER_MIN: Duration = Duration::from_millis(5);
/// And at most; in between, for as long as the last ones took.
const GATHER_MAX: Duration = Duration::from_secs(1);

/// What the first state must have.
#[derive(Debug)]
pub(super) struct Readiness {
    node: String,
    /// Ranges are given, so that the Node object needs none.
    has_ranges: bool,
}

impl Readiness {
    pub(super) fn of(surrounding: &Surrounding) -> Self {
        Self { node: surrounding.node.clone(), has_ranges: !surrounding.pod_cidrs.is_empty() }
    }
}

/// All that the thread works with.
pub(super) struct Worker {
    outlet: Outlet,
    inbox: Arc<Inbox>,
    readiness: Readiness,
    /// This node's object: whether it is there, and whether it has pod ranges.
    node: (bool, bool),
    refused: BTreeMap<ObjectKey, Fault>,
    policies: BTreeMap<ObjectKey, Arc<Value>>,
    reports: Arc<Reports>,
    complete: bool,
    /// A pod of this node has changed and is not published yet.
    pods_changed: bool,
}

impl Worker {
    pub(super) fn new(
        outlet: Outlet,
        inbox: Arc<Inbox>,
        reports: Arc<Reports>,
        readiness: Readiness,
    ) -> Self {
        Self {
            outlet,
            inbox,
            readiness,
            node: (false, false),
            refused: BTreeMap::new(),
            policies: BTreeMap::new(),
            reports,
            complete: false,
            pods_changed: false,
        }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut earliest = Instant::now();
        let mut last = Batch::default();
        loop {
            match self.inbox.wait(earliest, TICK) {
                Woken::Stop => return,
                Woken::Timeout if self.complete => self.outlet.tick(),
                Woken::Timeout => tracing::warn!("waiting for the API server: {}", self.missing(&last)),
                Woken::News(batch) => {
                    let began = Instant::now();
                    last = self.take(batch);
                    let now = Instant::now();
                    earliest = now + (now - began).clamp(GATHER_MIN, GATHER_MAX);
                }
            }
        }
    }

    fn take(&mut self, mut batch: Batch) -> Batch {
        let (mut valid, mut judged) = (Vec::new(), Vec::new());
        for (key, item) in std::mem::take(&mut batch.changes) {
            self.note_node(&key, item.as_ref());
            if let Some(Item::Policy(_, reported)) = &item {
                judged.push((key.clone(), reported.clone()));
            }
            valid.extend(self.change(key, item));
        }
        self.pods_changed |= self.outlet.apply(valid);
        for (key, reported) in judged {
            self.report(key, reported);
        }
        self.complete = self.complete || self.missing(&batch).is_empty();
        if self.complete {
            self.outlet.publish(std::mem::take(&mut self.pods_changed), self.problems(&batch));
        }
        batch
    }

    /// What becomes of one object; policies go through the store, which knows their last valid version.
    fn change(&mut self, key: ObjectKey, item: Option<Item>) -> Option<Change> {
        self.refused.remove(&key);
        let file = || Arc::new(PathBuf::from(key.to_string()));
        match item {
            // Its status alone has changed.
            Some(Item::Policy(manifest, _)) if self.policies.get(&key) == Some(&manifest) => None,
            Some(Item::Policy(manifest, _)) => {
                self.outlet.store.set_file(&file(), Contents::of_object(manifest.clone()));
                self.policies.insert(key, manifest);
                None
            }
            None if key.kind.is_policy() => {
                self.outlet.store.remove_file(&file());
                self.policies.remove(&key);
                self.reports.forget(&key);
                None
            }
            Some(Item::Refused(fault)) => {
                self.refused.insert(key.clone(), fault);
                Some((key, None))
            }
            Some(Item::Object(object)) => Some((key, Some(object))),
            None => Some((key, None)),
        }
    }

    /// Tells what became of a policy, where its status does not say so.
    fn report(&self, key: ObjectKey, reported: Option<Reported>) {
        let Some(manifest) = self.policies.get(&key).filter(|_| report::has_status(key.kind)) else { return };
        let metadata = manifest.get("metadata");
        let field = |name: &str| metadata.and_then(|m| m.get(name));
        let uid = field("uid").and_then(Value::as_str).map(str::to_owned);
        let generation = field("generation").and_then(Value::as_i64).unwrap_or_default();
        let refusal = self.outlet.store.refusal(&key);
        self.reports.want(key, Opinion { generation, refusal }, uid, reported);
    }

    fn note_node(&mut self, key: &ObjectKey, item: Option<&Item>) {
        if key.kind != Kind::Node || key.name != self.readiness.node {
            return;
        }
        self.node = match item {
            Some(Item::Object(Object::Node(node))) => {
                let spec = node.spec.as_ref();
                (true, spec.is_some_and(|s| s.pod_cidr.is_some() || s.pod_cidrs.is_some()))
            }
            other => (other.is_some(), false),
        };
    }

    /// What the first state lacks; empty: nothing.
    fn missing(&self, batch: &Batch) -> String {
        let mut missing: Vec<String> = batch.troubles.values().map(|t| t.reason.clone()).collect();
        let kinds: Vec<_> =
            Kind::ALL.iter().filter(|kind| !batch.listed.contains(kind)).map(|kind| kind.name()).collect();
        match (kinds.is_empty(), self.node) {
            (false, _) => missing.push(format!("not listed yet: {}", kinds.join(", "))),
            (true, (false, _)) => missing.push(format!(
                "there is no Node {}: is that this node's name? See --node-name",
                self.readiness.node
            )),
            (true, (true, false)) if !self.readiness.has_ranges => missing.push(format!(
                "Node {} has no spec.podCIDRs: let the controller manager allocate them \
                 (--allocate-node-cidrs), or give --pod-cidr",
                self.readiness.node
            )),
            _ => missing.clear(),
        }
        missing.join("; ")
    }

    /// Why changes are perhaps not seen, and which objects cannot be carried.
    fn problems(&self, batch: &Batch) -> Vec<Problem> {
        let about = |severity, object: String, path: &str, reason: String, effect: &str| Problem {
            object,
            path: path.to_owned(),
            ..Problem::about(severity, Path::new(""), &reason, effect)
        };
        let away = batch.troubles.contains_key(&Subject::Server);
        // With the server away, no kind can be read.
        let told = batch.troubles.iter().filter(|(s, _)| !away || **s == Subject::Server);
        let troubles = told.map(|(_, trouble)| {
            let reason = format!("{}, since {}", trouble.reason, trouble.since);
            let effect = "what was last seen stays in force";
            about(Severity::Error, "API server".to_owned(), "", reason, effect)
        });
        let refused = self.refused.iter().map(|(key, fault)| {
            about(Severity::Error, key.to_string(), &fault.path, fault.reason.clone(), "it is not used")
        });
        troubles.chain(refused).collect()
    }
}
