//! Upstream connections kept for the next request of the same client to the same backend, per worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::OnceCell;

use super::Face;
use super::link::Link;
use crate::settings::Limits;

/// What must be equal for a connection to be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub face: Face,
    /// A pod's address may be given to another pod with another identity.
    pub src_identity: u32,
    pub target: SocketAddr,
}

/// An HTTP/2 connection, shared by requests.
pub type Http2 = SendRequest<Bytes>;

#[derive(Debug)]
struct Kept {
    link: Box<Link>,
    /// Second in which it was put here.
    since: u32,
}

/// The place of a shared connection.
pub type Shared = Rc<OnceCell<Http2>>;

#[derive(Debug, Default)]
struct Place {
    cell: Shared,
    /// Second in which a request last asked for it.
    used: u32,
}

/// The pool of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    http1: RefCell<HashMap<Key, Vec<Kept>>>,
    http2: RefCell<HashMap<Key, Place>>,
}

impl Pool {
    /// A connection that is ready for a request, the one used last first.
    pub fn take(&self, key: &Key) -> Option<Box<Link>> {
        let mut pool = self.http1.borrow_mut();
        let kept = pool.get_mut(key)?;
        while let Some(Kept { link, .. }) = kept.pop() {
            if link.is_idle() {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection that is idle.
    pub fn put(&self, key: Key, link: Box<Link>, now: u32, limits: &Limits) {
        let mut pool = self.http1.borrow_mut();
        let kept = pool.entry(key).or_default();
        // One too many is not kept: it is closed.
        if kept.len() < limits.pool_per_key {
            kept.push(Kept { link, since: now });
        }
    }

    /// Closes what waits for a request (HTTP/1).
    pub fn clear_idle(&self) {
        // Taken out first: what ends may look at the pool.
        let idle = std::mem::take(&mut *self.http1.borrow_mut());
        drop(idle);
    }

    /// The place of the HTTP/2 connection: whoever comes first connects, the others wait for it.
    pub fn shared(&self, key: &Key, now: u32) -> Shared {
        let mut pool = self.http2.borrow_mut();
        let place = pool.entry(*key).or_default();
        place.used = now;
        Rc::clone(&place.cell)
    }

    /// Forgets the HTTP/2 connection in `cell`, if it is still the one.
    pub fn forget(&self, key: &Key, cell: &Shared) {
        let mut pool = self.http2.borrow_mut();
        if pool.get(key).is_some_and(|place| Rc::ptr_eq(&place.cell, cell)) {
            pool.remove(key);
        }
    }

    /// Drops what is closed or was not used for too long. An HTTP/2 connection that still has streams ends
    /// with the last of them.
    pub fn sweep(&self, now: u32, limits: &Limits) {
        let longest = limits.pool_idle_timeout.as_secs();
        let mut pool = self.http1.borrow_mut();
        pool.retain(|_, kept| {
            // Nobody polls an idle connection but this; whether its backend has closed it is found here.
            kept.retain_mut(|kept| {
                let is_old = u64::from(now.saturating_sub(kept.since)) > longest;
                !is_old && kept.link.is_still_idle()
            });
            !kept.is_empty()
        });
        self.http2.borrow_mut().retain(|_, place| {
            let is_old = u64::from(now.saturating_sub(place.used)) > longest;
            !is_old && !is_closed(&place.cell)
        });
    }
}

fn is_closed(cell: &Shared) -> bool {
    let ready = |sender: &Http2| sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
    cell.get().is_some_and(|sender| matches!(ready(sender), Poll::Ready(Err(_))))
}
