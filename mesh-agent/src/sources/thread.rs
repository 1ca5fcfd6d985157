//! The thread of the folder: waits, looks at files, passes what changed on to the [`Outlet`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::built_in::BuiltIn;
use super::directory::Directory;
use super::outlet::Outlet;
use super::problem::{PlacedFault, Problem, Severity};
use super::registry::Registry;
use super::signals::{SETTLE_MAX, Signals, Woken};
use super::{Options, Published, StartError};

/// How often the folder is looked at without an event: file systems without inotify, links that lead out of
/// the folder.
const RESCAN: Duration = Duration::from_secs(30);
/// The same, where it cannot be watched.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(2);
/// How often it is checked that the watched folder is still the one of that name.
const TICK: Duration = Duration::from_secs(1);

/// All that the thread works with.
pub(super) struct Worker {
    directory: Directory,
    built_in: BuiltIn,
    outlet: Outlet,
    signals: Arc<Signals>,
    watched: Watched,
    folder_faults: Vec<(PathBuf, PlacedFault)>,
    last_scan: Instant,
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
        super::readable(&options.manifests)?;
        let (outlet, receiver) = Outlet::open(options.state_dir, options.surrounding, registry)?;
        let mut worker = Self {
            directory: Directory::new(options.manifests),
            built_in: BuiltIn::new(&options.built_in),
            watched: Watched { watcher: None, folder: None, trouble: None },
            folder_faults: Vec::new(),
            last_scan: Instant::now(),
            signals,
            outlet,
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
        loop {
            match self.signals.wait(TICK) {
                Woken::Stop => return,
                Woken::Registry => self.publish(),
                Woken::Files => self.look(),
                Woken::Timeout => {
                    self.outlet.tick();
                    self.watch();
                    let rescan = if self.watched.trouble.is_some() { RESCAN_UNWATCHED } else { RESCAN };
                    if self.last_scan.elapsed() >= rescan {
                        self.look();
                    }
                }
            }
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
            self.outlet.store.remove_file(file);
        }
        for (file, contents) in scan.changed {
            self.outlet.store.set_file(&file, contents);
        }
        self.built_in.settle(&mut self.outlet.store);
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
        let pods_changed = self.outlet.apply(Vec::new());
        let problems = self.problems();
        self.outlet.publish(pods_changed, problems);
    }

    /// What is wrong with the folder itself.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(trouble) = &self.watched.trouble {
            let effect = "it is looked at every 2 s instead";
            problems.push(Problem::about(Severity::Warning, self.directory.root(), trouble, effect));
        }
        for (folder, fault) in &self.folder_faults {
            let effect = "the last state of its objects stays in force";
            problems.push(Problem::about(Severity::Error, folder, &fault.fault.reason, effect));
        }
        problems
    }
}
