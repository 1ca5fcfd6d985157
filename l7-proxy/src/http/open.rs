//! Exchanges under way, so that a change of policy can end them: their requests are remembered as policy saw
//! them, and decided once more when what policy says of their backend is not what it was.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use abi::{Direction, DropReason};
use http::{StatusCode, Version};

use super::exchange::{Seen, Verdict};
use crate::connection::{Choice, Conn};
use crate::decide::{Denial, Judged};
use crate::metrics::Fate;

/// Who waits for the end of an exchange.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    /// Whoever waits for the answer and passes it on.
    Answer = 0,
    /// Whoever passes the request's body on (HTTP/2).
    Upload = 1,
}

/// Why an exchange ends before its time.
#[derive(Clone, Debug)]
pub enum Cut {
    Denied(Denial),
    /// Nothing moved for too long.
    Idle,
    /// The request's body is beyond its limit.
    TooLarge,
}

impl Cut {
    /// [`Cut::Idle`], for people.
    pub const IDLE: &str = "stream idle time-out";
}

/// One exchange, from the verdict to the last byte of the answer.
#[derive(Debug)]
pub struct Open {
    pub seen: Seen,
    choice: Choice,
    /// What policy said of the backend when it was last asked.
    judged: RefCell<Rc<Judged>>,
    /// The head of the answer is on its way to the client.
    pub answered: Cell<bool>,
    moved: Cell<u32>,
    cut: RefCell<Option<Cut>>,
    wakers: [RefCell<Option<Waker>>; 2],
}

impl Open {
    /// Something of this exchange moved.
    pub fn moved(&self, now: u32) {
        self.moved.set(now);
    }

    /// Ready when the exchange must end.
    pub fn poll_cut(&self, waiter: Waiter, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Some(cut) = &*self.cut.borrow() {
            return Poll::Ready(cut.clone());
        }
        let mut waker = self.wakers[waiter as usize].borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends the exchange.
    pub fn end(&self, cut: Cut) {
        *self.cut.borrow_mut() = Some(cut);
        for waker in &self.wakers {
            // Taken out first: who wakes up may register again.
            let waker = waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The place of an exchange among those of its connection; given up when dropped.
#[derive(Debug)]
pub struct OpenGuard {
    conn: Rc<Conn>,
    open: Rc<Open>,
}

impl OpenGuard {
    /// An exchange that policy allows to go to `choice`.
    pub fn new(conn: &Rc<Conn>, seen: Seen, choice: Choice) -> Self {
        let open = Rc::new(Open {
            seen,
            judged: RefCell::new(Rc::clone(&choice.judged)),
            choice,
            answered: Cell::default(),
            moved: Cell::new(conn.worker.clock.now()),
            cut: RefCell::default(),
            wakers: Default::default(),
        });
        conn.exchanges.borrow_mut().push(Rc::clone(&open));
        conn.control.exchanges(conn.exchanges.borrow().len());
        Self { conn: Rc::clone(conn), open }
    }

    pub fn open(&self) -> &Rc<Open> {
        &self.open
    }

    /// Something of it moved.
    pub fn moved(&self) {
        self.open.moved(self.conn.worker.clock.now());
    }

    pub fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    /// The backend it goes to.
    pub fn choice(&self) -> &Choice {
        &self.open.choice
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let mut exchanges = self.conn.exchanges.borrow_mut();
        if let Some(place) = exchanges.iter().position(|open| Rc::ptr_eq(open, &self.open)) {
            exchanges.swap_remove(place);
        }
        self.conn.control.exchanges(exchanges.len());
    }
}

/// Decides every exchange of `conn` once more whose backend's rules are not what they were, and ends those
/// that are denied now. Returns whether one of them was answered already, at least in part.
pub fn recheck(conn: &Conn) -> bool {
    let all = conn.exchanges.borrow().clone();
    all.iter().fold(false, |was_answered, open| match decide(conn, open) {
        Ok(()) => was_answered,
        Err(denial) => {
            if open.answered.get() {
                record(conn, open, &denial);
            }
            open.end(Cut::Denied(denial));
            was_answered | open.answered.get()
        }
    })
}

fn decide(conn: &Conn, open: &Open) -> Result<(), Denial> {
    if open.cut.borrow().is_some() {
        return Ok(());
    }
    if conn.record.vip && conn.worker.config().service(&conn.destination).is_none() {
        let (reason, direction) = (DropReason::NoService, Direction::Egress);
        return Err(Denial { reason, rule: 0, direction, why: String::new() });
    }
    let judged = conn.rejudge(open.choice.judged.target);
    let is_known = judged.says_the_same(&open.judged.replace(Rc::clone(&judged)));
    if is_known { Ok(()) } else { open.seen.decide(&judged) }
}

/// Of an exchange that was recorded as forwarded: its end.
fn record(conn: &Conn, open: &Open, denial: &Denial) {
    let verdict = Verdict {
        fate: Fate::Denied,
        reason: Some(denial.reason),
        rule: denial.rule,
        direction: Some(denial.direction),
        detail: &denial.why,
    };
    let revision = conn.worker.config().revision;
    open.seen.record_at(conn, Some(&open.choice), StatusCode::FORBIDDEN, &verdict, revision);
}

/// Ends every exchange of `conn` on which nothing has moved for `limit` seconds. Returns whether one of
/// them was answered already, at least in part.
pub fn end_idle(conn: &Conn, limit: u64) -> bool {
    let now = conn.worker.clock.now();
    let all = conn.exchanges.borrow().clone();
    let mut found = false;
    for open in all {
        // On an HTTP/1 connection nothing moves but this exchange.
        let shared = if open.seen.version < Version::HTTP_2 { conn.control.last_activity() } else { 0 };
        if u64::from(now.saturating_sub(open.moved.get().max(shared))) <= limit {
            continue;
        }
        if open.answered.get() {
            conn.drop_protocol(DropReason::LimitExceeded, 0, Cut::IDLE);
            found = true;
        }
        open.end(Cut::Idle);
    }
    found
}
