//! What wakes the source's thread: files that change, pods that are attached, the end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};

use super::registry::Wake;

/// How long files must rest before they are read.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// How long a folder that never rests is waited for.
pub(super) const SETTLE_MAX: Duration = Duration::from_millis(500);
/// How long after its last write a file that is still open for writing is left alone.
pub(super) const WRITER_MAX: Duration = Duration::from_secs(5);
/// Most files that are watched for the end of their writing at once.
const WRITING_MAX: usize = 65_536;

/// Shared between the thread and those who wake it.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    /// Time of the first and the last change of files since they were read.
    files: Option<(Instant, Instant)>,
    /// Files with a writer, and the time of the last write.
    writing: HashMap<PathBuf, Instant>,
    registry: bool,
    stop: bool,
}

/// Why the thread woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Stop,
    Registry,
    /// Files changed and rest now.
    Files,
    /// Nothing happened for the time given.
    Timeout,
}

impl Wake for Signals {
    fn registry(&self) {
        self.lock().registry = true;
        self.wake.notify_one();
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }
}

impl Signals {
    /// The folder's files shall be looked at after they have settled.
    pub(super) fn files(&self) {
        self.touch(&mut self.lock());
        self.wake.notify_one();
    }

    /// Takes an event of the watcher.
    pub(super) fn event(&self, event: notify::Result<notify::Event>) {
        let mut pending = self.lock();
        let now = Instant::now();
        if let Ok(event) = &event {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) if pending.writing.len() < WRITING_MAX => {
                    pending.writing.extend(event.paths.iter().map(|path| (path.clone(), now)));
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_)) => {
                    pending.writing.retain(|path, _| !event.paths.contains(path));
                }
                // Somebody reads; we do so ourselves.
                EventKind::Access(_) => return,
                _ => {}
            }
        }
        // After an error, such as an overflow of the kernel's queue, anything may have changed.
        self.touch(&mut pending);
        self.wake.notify_one();
    }

    fn touch(&self, pending: &mut Pending) {
        let now = Instant::now();
        let first = pending.files.map_or(now, |(first, _)| first);
        pending.files = Some((first, now));
    }

    /// Whether somebody seems to be writing to the file still.
    pub(super) fn is_written(&self, file: &std::path::Path) -> bool {
        let mut pending = self.lock();
        pending.writing.retain(|_, last| last.elapsed() < WRITER_MAX);
        pending.writing.contains_key(file)
    }

    /// Waits until there is something to do, at most for `limit`.
    pub(super) fn wait(&self, limit: Duration) -> Woken {
        let end = Instant::now() + limit;
        let mut pending = self.lock();
        loop {
            if pending.stop {
                return Woken::Stop;
            }
            if std::mem::take(&mut pending.registry) {
                return Woken::Registry;
            }
            let now = Instant::now();
            let settled = pending.files.map(|(first, last)| (last + SETTLE).min(first + SETTLE_MAX));
            if settled.is_some_and(|at| at <= now) {
                pending.files = None;
                return Woken::Files;
            }
            if end <= now {
                return Woken::Timeout;
            }
            let until = settled.map_or(end, |at| at.min(end));
            let waited = self.wake.wait_timeout(pending, until - now);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // The state is whole between any two statements that could panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
