//! A listener that cannot accept, mostly for want of descriptors: whoever waits goes on waiting in its queue,
//! and what nobody uses is closed to make room, as nginx does it.

use std::io;
use std::time::{Duration, Instant};

use super::Worker;
use crate::control::Order;

/// How long a worker waits after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said aloud.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Client connections that are closed at a time.
const CLOSED_AT_A_TIME: usize = 32;
/// Seconds for which nothing has moved on one that may be closed.
const IDLE_LEAST: u32 = 2;
/// `ENFILE` and `EMFILE` of Linux: no descriptor is left, on the machine or for this process.
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

/// The failures of one listener.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    said: Option<Instant>,
    /// Since it was said last.
    failures: u64,
}

impl Shortage {
    /// Notes a failure, makes room if descriptors are short, and waits a moment.
    pub(super) async fn failed(&mut self, worker: &Worker, error: &io::Error) {
        self.failures += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!(%error, failures = self.failures, "cannot accept");
            (self.said, self.failures) = (Some(Instant::now()), 0);
        }
        if error.raw_os_error().is_some_and(|number| NO_DESCRIPTOR.contains(&number)) {
            worker.make_room();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Worker {
    /// Closes upstream connections that wait for requests, and the client connections that have been idle
    /// longest.
    fn make_room(&self) {
        self.pool.clear_idle();
        let now = self.clock.now();
        let is_idle = |control: &crate::control::Control| {
            !control.is_serving() && now.saturating_sub(control.last_activity()) >= IDLE_LEAST
        };
        // Copied: what wakes up may change the map.
        let all = self.connections.borrow();
        let mut idle: Vec<_> = all.values().filter(|control| is_idle(control)).cloned().collect();
        drop(all);
        idle.sort_unstable_by_key(|control| control.last_activity());
        idle.iter().take(CLOSED_AT_A_TIME).for_each(|control| control.order(Order::EndIdle));
    }
}
