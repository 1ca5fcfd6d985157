//! What every source does with its objects: settles which version is in force, assembles, keeps what must
//! survive a restart, publishes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::assemble::{Assembler, Surrounding};
use super::cluster_ips::Chosen;
use super::endpoints;
use super::object::{Kind, Object};
use super::problem::{Problem, Severity};
use super::registry::Registry;
use super::store::{Change, LastValid, Store};
use super::{Published, StartError};
use crate::agent::state;
use crate::yaml::Position;

/// How often identities without pods are looked for.
const RELEASE_EVERY: Duration = Duration::from_secs(60);

const IDENTITIES: &str = "identities.json";
const SERVICE_ADDRESSES: &str = "service-addresses.json";
const LAST_VALID: &str = "last-valid.json";

/// The way from objects to the published state.
pub(super) struct Outlet {
    /// Objects of which a version may be refused.
    pub(super) store: Store,
    assembler: Assembler,
    registry: Registry,
    published: watch::Sender<Arc<Published>>,
    state_dir: PathBuf,
    node: String,
    /// Whether objects stand in files.
    in_files: bool,
    /// Manifests of this node's pods.
    pods: BTreeMap<String, Arc<Pod>>,
    /// What is on disk.
    kept: Kept,
    trouble: Vec<String>,
    last_release: Instant,
}

#[derive(Default)]
struct Kept {
    identities: policy::identity::Identities,
    chosen: Chosen,
    last_valid: Vec<LastValid>,
}

impl Outlet {
    /// Takes up the state of the last run. Nothing is published yet.
    ///
    /// # Errors
    /// That state cannot be read.
    pub(super) fn open(
        state_dir: PathBuf,
        surrounding: Surrounding,
        registry: Registry,
    ) -> Result<(Self, watch::Receiver<Arc<Published>>), StartError> {
        let path = |file: &str| state_dir.join(file);
        let kept = Kept {
            identities: state::read(&path(IDENTITIES))?.unwrap_or_default(),
            chosen: state::read(&path(SERVICE_ADDRESSES))?.unwrap_or_default(),
            last_valid: state::read(&path(LAST_VALID))?.unwrap_or_default(),
        };
        let (published, receiver) = watch::channel(Arc::default());
        let outlet = Self {
            store: Store::recalling(kept.last_valid.clone()),
            node: surrounding.node.clone(),
            in_files: !surrounding.managed,
            assembler: Assembler::new(surrounding, kept.identities.clone(), kept.chosen.clone()),
            registry,
            published,
            state_dir,
            pods: BTreeMap::new(),
            kept,
            trouble: Vec::new(),
            last_release: Instant::now(),
        };
        Ok((outlet, receiver))
    }

    /// Takes changes of objects, those of the store and `valid` ones beside it. They show with the next
    /// [`publish`](Self::publish). Returns whether a pod of this node is among them.
    pub(super) fn apply(&mut self, valid: Vec<Change>) -> bool {
        let mut changes = self.store.settle();
        changes.extend(valid);
        let mut pods_changed = false;
        for (key, object) in changes.iter().filter(|(key, _)| key.kind == Kind::Pod) {
            pods_changed |= match object {
                Some(Object::Pod(pod)) if endpoints::node_name(pod, &self.node) == self.node => {
                    self.pods.insert(key.path(), pod.clone());
                    true
                }
                _ => self.pods.remove(&key.path()).is_some(),
            };
        }
        for (key, _) in changes.iter().filter(|(key, now)| key.kind == Kind::Namespace && now.is_none()) {
            self.warn_of_orphans(&key.name);
        }
        self.assembler.apply(changes);
        pods_changed
    }

    /// A Namespace went and its pods did not: they go on without its labels.
    fn warn_of_orphans(&self, namespace: &str) {
        let prefix = format!("{namespace}/");
        let pods: Vec<&str> =
            self.assembler.pods().keys().map(String::as_str).filter(|key| key.starts_with(&prefix)).collect();
        if !pods.is_empty() {
            tracing::warn!(
                "Namespace {namespace} is gone, its pods are not: {} go on, without the labels that the \
                 namespace had",
                pods.join(", ")
            );
        }
    }

    /// To be called every few seconds.
    pub(super) fn tick(&mut self) {
        if self.last_release.elapsed() >= RELEASE_EVERY {
            self.last_release = Instant::now();
            self.assembler.release_identities(self.last_release);
            self.keep();
        }
    }

    /// Brings what is published up to date. `own` are problems of the source itself.
    pub(super) fn publish(&mut self, pods_changed: bool, own: Vec<Problem>) {
        let (generation, attached) = self.registry.current();
        self.assembler.register(attached);
        if let Some(addresses) = self.registry.node_addresses() {
            self.assembler.set_node_addresses(addresses);
        }
        let changed = self.assembler.assemble();
        self.keep();
        let kept = |reason: &String| Problem::about(Severity::Error, &self.state_dir, reason, "");
        let problems: Vec<_> = self.trouble.iter().map(kept).chain(own).chain(self.problems()).collect();
        let before = self.published.borrow().clone();
        let snapshot = match changed {
            true => Arc::new(self.assembler.snapshot().clone()),
            false => before.snapshot.clone(),
        };
        let pods = if pods_changed { Arc::new(self.pods.clone()) } else { before.pods.clone() };
        let problems =
            if *before.problems == problems { before.problems.clone() } else { Arc::new(problems) };
        let last_valid = self.store.last_valid_since();
        let last_valid =
            if *before.last_valid == last_valid { before.last_valid.clone() } else { Arc::new(last_valid) };
        log_new(&before.problems, &problems);
        let same = !changed
            && !pods_changed
            && Arc::ptr_eq(&problems, &before.problems)
            && Arc::ptr_eq(&last_valid, &before.last_valid);
        if !same || generation != before.registered {
            self.published.send_replace(Arc::new(Published {
                snapshot,
                problems,
                last_valid,
                pods,
                registered: generation,
            }));
        }
    }

    /// Puts on disk what a restart must find. A disk that refuses is told of and not waited for: numbers
    /// and addresses follow from names, so the next start comes to the same ones but for rare collisions.
    fn keep(&mut self) {
        let mut trouble = Vec::new();
        let mut write = |file: &str, result: Result<(), state::StateError>| {
            if let Err(error) = result {
                trouble.push(format!("cannot keep {file}: {error}"));
            }
        };
        let path = |file: &str| self.state_dir.join(file);
        if *self.assembler.identities() != self.kept.identities {
            write(IDENTITIES, state::write(&path(IDENTITIES), self.assembler.identities()));
            self.kept.identities = self.assembler.identities().clone();
        }
        if *self.assembler.chosen() != self.kept.chosen {
            write(SERVICE_ADDRESSES, state::write(&path(SERVICE_ADDRESSES), self.assembler.chosen()));
            self.kept.chosen = self.assembler.chosen().clone();
        }
        let last_valid = self.store.last_valid();
        if last_valid != self.kept.last_valid {
            write(LAST_VALID, state::write(&path(LAST_VALID), &last_valid));
            self.kept.last_valid = last_valid;
        }
        if !trouble.is_empty() {
            // What was not written is tried again with the next change.
            self.kept = Kept::default();
        }
        self.trouble = trouble;
    }

    /// What is wrong with the objects.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.store.problems();
        for (key, faults) in self.assembler.faults() {
            let (file, at) = self.store.place(key).unwrap_or((Path::new(""), Position::default()));
            problems.extend(faults.iter().map(|fault| Problem {
                severity: Severity::Warning,
                file: file.to_owned(),
                line: at.line,
                column: at.column,
                object: key.to_string(),
                path: fault.path.clone(),
                reason: fault.reason.clone(),
                effect: String::new(),
            }));
        }
        if !self.in_files {
            problems.iter_mut().for_each(|problem| problem.file = PathBuf::new());
        }
        problems
    }
}

/// Every problem is logged once, when it comes up, and noted when it is gone.
fn log_new(before: &[Problem], now: &[Problem]) {
    let known: HashSet<&Problem> = before.iter().collect();
    for problem in now.iter().filter(|p| !known.contains(p)) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
    let left: HashSet<&Problem> = now.iter().collect();
    let gone = before.iter().filter(|p| !left.contains(p)).count();
    if gone > 0 {
        tracing::info!("{gone} of the problems with manifests are mended, {} left", now.len());
    }
}
