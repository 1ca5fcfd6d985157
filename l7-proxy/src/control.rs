//! What a worker and one of its connections tell each other: orders one way, signs of life the other.
//!
//! A connection has no timer of its own. Once a second the worker looks at all of them, and wakes those that
//! are over a time-out. The atomics are touched by one thread only (they are atomics because the HTTP engine
//! wants what it holds to be `Send`), so relaxed order is enough.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parsers::http1::Violation;

use crate::settings::Limits;

/// Seconds since the worker started.
#[derive(Debug, Default)]
pub struct Clock(AtomicU32);

impl Clock {
    pub fn now(&self) -> u32 {
        self.0.load(Relaxed)
    }

    pub fn set(&self, now: u32) {
        self.0.store(now, Relaxed);
    }
}

/// What a connection is told. The larger number wins over one that was not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Policy changed, or time has gone by: look whether you and your requests may go on.
    Recheck = 1,
    /// Say with the next answer that it is the last one, and end after it.
    Drain = 2,
    /// End unless something is under way: who has not asked for anything since the drain began is idle.
    EndIdle = 3,
    /// End now: a time-out.
    Close = 4,
}

const HOLD_RESUME: u8 = 1;
const HOLD_RAW: u8 = 2;

/// Shared by the worker, the connection's task and its [`Guard`](crate::guard::Guard).
#[derive(Debug)]
pub struct Control {
    clock: Arc<Clock>,
    order: AtomicU8,
    drained: AtomicU8,
    task: AtomicWaker,
    accepted: u32,
    last_activity: AtomicU32,
    /// Second in which an unfinished head began, plus one; 0 = none.
    head_since: AtomicU32,
    /// 0 while a connection whose protocol must be known has not said anything.
    spoke: AtomicU8,
    hold: AtomicU8,
    reader: AtomicWaker,
    violation: OnceLock<Violation>,
    /// Requests that are being served.
    exchanges: AtomicU32,
    /// When the connection was last told to look at them.
    swept: AtomicU32,
    aborted: AtomicU8,
    flooded: AtomicU8,
}

impl Control {
    /// Of a connection accepted now.
    pub fn new(clock: Arc<Clock>) -> Self {
        let now = clock.now();
        Self {
            clock,
            order: AtomicU8::new(0),
            drained: AtomicU8::new(0),
            task: AtomicWaker::new(),
            accepted: now,
            last_activity: AtomicU32::new(now),
            head_since: AtomicU32::new(0),
            spoke: AtomicU8::new(0),
            hold: AtomicU8::new(0),
            reader: AtomicWaker::new(),
            violation: OnceLock::new(),
            exchanges: AtomicU32::new(0),
            swept: AtomicU32::new(now),
            aborted: AtomicU8::new(0),
            flooded: AtomicU8::new(0),
        }
    }

    /// Gives an order and wakes the connection.
    pub fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Relaxed);
        if order == Order::Drain {
            self.drained.store(1, Relaxed);
        }
        self.task.wake();
    }

    /// Whether the connection was ever told to drain.
    pub fn is_draining(&self) -> bool {
        self.drained.load(Relaxed) != 0
    }

    /// The order that was given, once.
    pub fn poll_order(&self, cx: &mut Context<'_>) -> Poll<Order> {
        self.task.register(cx.waker());
        match self.order.load(Relaxed) {
            0 => Poll::Pending,
            number => {
                self.order.store(0, Relaxed);
                Poll::Ready(match number {
                    1 => Order::Recheck,
                    2 => Order::Drain,
                    3 => Order::EndIdle,
                    _ => Order::Close,
                })
            }
        }
    }

    /// Waits for an order.
    pub async fn next_order(&self) -> Order {
        std::future::poll_fn(|cx| self.poll_order(cx)).await
    }

    /// Bytes moved.
    pub fn active(&self) {
        self.last_activity.store(self.clock.now(), Relaxed);
    }

    /// The client sent bytes; `in_head` tells whether they end inside a request head.
    pub fn received(&self, in_head: bool) {
        self.active();
        self.spoke.store(1, Relaxed);
        if !in_head {
            self.head_since.store(0, Relaxed);
        } else if self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.clock.now() + 1, Relaxed);
        }
    }

    /// Nothing needs to be said first on this connection.
    pub fn may_be_silent(&self) {
        self.spoke.store(1, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Which time-out is over, if one is.
    pub fn overdue(&self, limits: &Limits) -> Option<&'static str> {
        let now = self.clock.now();
        let over =
            |since: u32, limit: std::time::Duration| u64::from(now.saturating_sub(since)) > limit.as_secs();
        let head = self.head_since.load(Relaxed);
        if head > 0 && over(head - 1, limits.head_timeout) {
            return Some("head time-out");
        }
        if self.spoke.load(Relaxed) == 0 && over(self.accepted, limits.first_byte_timeout) {
            return Some("first byte time-out");
        }
        over(self.last_activity.load(Relaxed), limits.idle_timeout).then_some("idle time-out")
    }

    /// When bytes last moved.
    pub fn last_activity(&self) -> u32 {
        self.last_activity.load(Relaxed)
    }

    /// Second of now.
    pub fn now(&self) -> u32 {
        self.clock.now()
    }

    /// So many requests are being served.
    pub fn exchanges(&self, count: usize) {
        self.exchanges.store(u32::try_from(count).unwrap_or(u32::MAX), Relaxed);
    }

    /// Whether requests are being served.
    pub fn is_serving(&self) -> bool {
        self.exchanges.load(Relaxed) > 0
    }

    /// Whether it is time to look for requests on which nothing moves; four times in their time-out.
    pub fn sweep_is_due(&self, limits: &Limits) -> bool {
        let (now, limit) = (self.clock.now(), limits.stream_idle_timeout.as_secs());
        let is_due = limit > 0
            && self.exchanges.load(Relaxed) > 0
            && u64::from(now.saturating_sub(self.swept.load(Relaxed))) >= (limit / 4).max(1);
        if is_due {
            self.swept.store(now, Relaxed);
        }
        is_due
    }

    /// The client must not take what it has got for a whole answer: the socket is to be reset.
    pub fn abort(&self) {
        self.aborted.store(1, Relaxed);
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Relaxed) != 0
    }

    /// The client sends frames that only make work.
    pub fn flooded(&self) {
        self.flooded.store(1, Relaxed);
    }

    pub fn is_flooded(&self) -> bool {
        self.flooded.load(Relaxed) != 0
    }

    /// A request that asked for another protocol did not get it: what follows is a request.
    pub fn resume(&self) {
        self.hold.store(HOLD_RESUME, Relaxed);
        self.reader.wake();
    }

    /// The other protocol begins.
    pub fn switch(&self) {
        self.hold.store(HOLD_RAW, Relaxed);
        self.reader.wake();
    }

    /// The answer to a held reader: true = other protocol, false = a request.
    pub fn poll_hold(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.reader.register(cx.waker());
        match self.hold.swap(0, Relaxed) {
            HOLD_RESUME => Poll::Ready(false),
            HOLD_RAW => Poll::Ready(true),
            _ => Poll::Pending,
        }
    }

    /// The client's framing was refused.
    pub fn violated(&self, violation: Violation) {
        // The first one counts.
        let _ = self.violation.set(violation);
    }

    /// What the client's framing was refused for.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get().copied()
    }
}
