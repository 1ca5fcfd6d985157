//! What the watches have seen and the worker has not taken yet: of each object its newest state, so that a
//! flood of changes never takes more room than the objects themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::objects::Item;
use crate::sources::object::{Kind, ObjectKey};
use crate::sources::registry::Wake;

/// What a trouble is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The API server as a whole.
    Server,
    Kind(Kind),
}

/// Something that keeps changes from being seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: String,
    /// When it came up.
    pub(super) since: String,
}

/// What has come since the last time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// `None`: the object is gone.
    pub(super) changes: BTreeMap<ObjectKey, Option<Item>>,
    /// Kinds of which every object has been seen.
    pub(super) listed: BTreeSet<Kind>,
    /// All that there is.
    pub(super) troubles: BTreeMap<Subject, Trouble>,
}

/// Shared between the watches and the worker.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// Something has come.
    news: bool,
    stop: bool,
}

/// Why the worker is woken.
#[derive(Debug)]
pub(super) enum Woken {
    Stop,
    News(Batch),
    /// Nothing came for the time given.
    Timeout,
}

impl Inbox {
    /// An object's newest state.
    pub(super) fn put(&self, key: ObjectKey, item: Option<Item>) {
        self.change(|batch| {
            batch.changes.insert(key, item);
        });
    }

    /// Every object of a kind has been put.
    pub(super) fn listed(&self, kind: Kind) {
        self.change(|batch| {
            batch.listed.insert(kind);
        });
    }

    /// A trouble comes up, goes on or (`None`) ends.
    pub(super) fn trouble(&self, subject: Subject, reason: Option<String>) {
        let mut state = self.lock();
        let troubles = &mut state.batch.troubles;
        let changed = match reason {
            None => troubles.remove(&subject).is_some(),
            Some(reason) => {
                let before = troubles.get(&subject);
                let same = before.is_some_and(|t| t.reason == reason);
                let since = before.map_or_else(now, |t| t.since.clone());
                troubles.insert(subject, Trouble { reason, since });
                !same
            }
        };
        if changed {
            state.news = true;
            self.wake.notify_one();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Batch)) {
        let mut state = self.lock();
        change(&mut state.batch);
        state.news = true;
        self.wake.notify_one();
    }

    /// Waits for news, at most for `limit`, and takes them; not before `earliest`, so that what comes
    /// meanwhile is taken along.
    pub(super) fn wait(&self, earliest: Instant, limit: Duration) -> Woken {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if state.stop {
                return Woken::Stop;
            }
            let now = Instant::now();
            if state.news && earliest <= now {
                state.news = false;
                let batch = &mut state.batch;
                return Woken::News(Batch {
                    changes: std::mem::take(&mut batch.changes),
                    listed: batch.listed.clone(),
                    troubles: batch.troubles.clone(),
                });
            }
            if end <= now {
                return Woken::Timeout;
            }
            let until = if state.news { earliest.min(end) } else { end };
            state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Inbox {
    fn registry(&self) {
        self.change(|_| {});
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }
}

/// The time of day, to the second.
fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}
