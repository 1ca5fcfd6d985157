//! The thread that keeps the published state up to date: waits, looks at files, assembles, keeps what must
//! survive a restart, publishes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::assemble::Assembler;
use super::built_in::BuiltIn;
use super::cluster_ips::Chosen;
use super::directory::Directory;
use super::object::Kind;
use super::problem::{PlacedFault, Problem, Severity};
use super::registry::Registry;
use super::signals::{SETTLE_MAX, Signals, Woken};
use super::store::{LastValid, Store};
use super::{Options, Published, StartError};
use crate::agent::state;
use crate::yaml::Position;

/// How often the folder is looked at without an event: file systems without inotify, links that lead out of
/// the folder.
const RESCAN: Duration = Duration::from_secs(30);
/// The same, where it cannot be watched.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(2);
/// How often identities without pods are looked for.
const RELEASE_EVERY: Duration = Duration::from_secs(60);
/// How often it is checked that the watched folder is still the one of that name.
const TICK: Duration = Duration::from_secs(1);

const IDENTITIES: &str = "identities.json";
const SERVICE_ADDRESSES: &str = "service-addresses.json";
const LAST_VALID: &str = "last-valid.json";

/// All that the thread works with.
pub(super) struct Worker {
    state_dir: PathBuf,
    directory: Directory,
    built_in: BuiltIn,
    store: Store,
    assembler: Assembler,
    registry: Registry,
    signals: Arc<Signals>,
    published: watch::Sender<Arc<Published>>,
    watched: Watched,
    /// What is on disk.
    kept: Kept,
    folder_faults: Vec<(PathBuf, PlacedFault)>,
    trouble: Vec<String>,
    last_scan: Instant,
}

#[derive(Default)]
struct Kept {
    identities: policy::identity::Identities,
    chosen: Chosen,
    last_valid: Vec<LastValid>,
}

/// The watch on the folder.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the watched folder.
    folder: Option<(u64, u64)>,
    trouble: Option<String>,
}

impl Worker {
    /// Reads the state of the last run and all manifests, and publishes the first snapshot.
    pub(super) fn start(
        options: Options,
        signals: Arc<Signals>,
        registry: Registry,
    ) -> Result<(Self, watch::Receiver<Arc<Published>>), StartError> {
        let path = |file: &str| options.state_dir.join(file);
        let kept = Kept {
            identities: state::read(&path(IDENTITIES))?.unwrap_or_default(),
            chosen: state::read(&path(SERVICE_ADDRESSES))?.unwrap_or_default(),
            last_valid: state::read(&path(LAST_VALID))?.unwrap_or_default(),
        };
        super::readable(&options.manifests)?;
        let (published, receiver) = watch::channel(Arc::default());
        let mut worker = Self {
            store: Store::recalling(kept.last_valid.clone()),
            assembler: Assembler::new(options.surrounding, kept.identities.clone(), kept.chosen.clone()),
            directory: Directory::new(options.manifests),
            built_in: BuiltIn::new(&options.built_in),
            state_dir: options.state_dir,
            watched: Watched { watcher: None, folder: None, trouble: None },
            folder_faults: Vec::new(),
            trouble: Vec::new(),
            last_scan: Instant::now(),
            registry,
            signals,
            published,
            kept,
        };
        worker.watch();
        let begin = Instant::now();
        while worker.scan() && begin.elapsed() < SETTLE_MAX {
            std::thread::sleep(super::signals::SETTLE);
        }
        worker.publish();
        Ok((worker, receiver))
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut last_release = Instant::now();
        loop {
            match self.signals.wait(TICK) {
                Woken::Stop => return,
                Woken::Registry => self.publish(),
                Woken::Files => self.look(),
                Woken::Timeout => {
                    if last_release.elapsed() >= RELEASE_EVERY {
                        last_release = Instant::now();
                        self.assembler.release_identities(last_release);
                        self.keep();
                    }
                    self.watch();
                    let rescan = if self.watched.trouble.is_some() { RESCAN_UNWATCHED } else { RESCAN };
                    if self.last_scan.elapsed() >= rescan {
                        self.look();
                    }
                }
            }
        }
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

    fn look(&mut self) {
        if self.scan() {
            // Somebody is not done yet; what is settled counts already.
            self.signals.files();
        }
        self.publish();
    }

    /// Looks at the files. Returns whether some are still being changed.
    fn scan(&mut self) -> bool {
        let signals = self.signals.clone();
        let scan = self.directory.scan(|file| signals.is_written(file));
        self.last_scan = Instant::now();
        for file in &scan.removed {
            self.store.remove_file(file);
        }
        for (file, contents) in scan.changed {
            self.store.set_file(&file, contents);
        }
        self.built_in.settle(&mut self.store);
        self.folder_faults = scan.faults;
        scan.unsettled
    }

    /// Watches the folder, if it is not watched or another one has its name now.
    fn watch(&mut self) {
        use std::os::unix::fs::MetadataExt;
        let root = self.directory.root().to_owned();
        let folder = std::fs::metadata(&root).ok().map(|meta| (meta.dev(), meta.ino()));
        if folder == self.watched.folder && (self.watched.watcher.is_some() || folder.is_none()) {
            return;
        }
        let signals = self.signals.clone();
        let watcher =
            notify::recommended_watcher(move |event| signals.event(event)).and_then(|mut watcher| {
                watcher.watch(&root, RecursiveMode::Recursive)?;
                Ok(watcher)
            });
        let (watcher, trouble) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(_) if folder.is_none() => (None, None),
            Err(error) => (None, Some(format!("cannot be watched: {error}"))),
        };
        // A failed attempt is repeated when the folder changes, not all the time: rescans do without.
        self.watched = Watched { watcher, folder, trouble };
        self.signals.files();
    }

    fn publish(&mut self) {
        let (generation, attached) = self.registry.current();
        self.assembler.register(attached);
        if let Some(addresses) = self.registry.node_addresses() {
            self.assembler.set_node_addresses(addresses);
        }
        let changes = self.store.settle();
        let pods_changed = changes.iter().any(|(key, _)| key.kind == Kind::Pod);
        for (key, _) in changes.iter().filter(|(key, now)| key.kind == Kind::Namespace && now.is_none()) {
            self.warn_of_orphans(&key.name);
        }
        self.assembler.apply(changes);
        let changed = self.assembler.assemble();
        self.keep();
        let problems = self.problems();
        let before = self.published.borrow().clone();
        let snapshot = match changed {
            true => Arc::new(self.assembler.snapshot().clone()),
            false => before.snapshot.clone(),
        };
        let pods = match pods_changed {
            true => Arc::new(self.assembler.pods().clone()),
            false => before.pods.clone(),
        };
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

    fn problems(&self) -> Vec<Problem> {
        let root = self.directory.root();
        let about = |severity, file: PathBuf, reason: &str, effect: &str| Problem {
            severity,
            file,
            line: 0,
            column: 0,
            object: String::new(),
            path: String::new(),
            reason: reason.to_owned(),
            effect: effect.to_owned(),
        };
        let mut problems = Vec::new();
        for reason in &self.trouble {
            problems.push(about(Severity::Error, self.state_dir.clone(), reason, ""));
        }
        if let Some(trouble) = &self.watched.trouble {
            let effect = "it is looked at every 2 s instead";
            problems.push(about(Severity::Warning, root.to_owned(), trouble, effect));
        }
        for (folder, fault) in &self.folder_faults {
            let effect = "the last state of its objects stays in force";
            problems.push(about(Severity::Error, folder.clone(), &fault.fault.reason, effect));
        }
        problems.extend(self.store.problems());
        for (key, faults) in self.assembler.faults() {
            let (file, at) = self.store.place(key).unwrap_or((std::path::Path::new(""), Position::default()));
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
