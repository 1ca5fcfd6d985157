//! Upstream connections kept for the next request of the same client to the same backend, per worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use hyper::client::conn::{http1, http2};
use tokio::sync::OnceCell;

use super::Face;
use crate::http::body::RequestBody;
use crate::settings::Limits;

/// What must be equal for a connection to be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub face: Face,
    /// A pod's address may be given to another pod with another identity.
    pub src_identity: u32,
    pub target: SocketAddr,
}

/// An HTTP/1 connection to send one request on.
pub type Http1 = http1::SendRequest<RequestBody>;
/// An HTTP/2 connection, shared by requests.
pub type Http2 = http2::SendRequest<RequestBody>;

#[derive(Debug)]
struct Kept {
    sender: Http1,
    /// Second in which it was put here; its last response may still have been running.
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
    pub fn take(&self, key: &Key) -> Option<Http1> {
        let mut pool = self.http1.borrow_mut();
        let kept = pool.get_mut(key)?;
        let ready = kept.iter().rposition(|kept| kept.sender.is_ready())?;
        Some(kept.swap_remove(ready).sender)
    }

    /// Keeps a connection whose response has begun; it is ready once that has ended.
    pub fn put(&self, key: Key, sender: Http1, now: u32, limits: &Limits) {
        if sender.is_closed() {
            return;
        }
        let mut pool = self.http1.borrow_mut();
        let kept = pool.entry(key).or_default();
        if kept.len() >= limits.pool_per_key {
            kept.retain(|kept| !kept.sender.is_closed());
        }
        // One too many is not kept: it ends with its response.
        if kept.len() < limits.pool_per_key {
            kept.push(Kept { sender, since: now });
        }
    }

    /// The place of the HTTP/2 connection: whoever comes first connects, the others wait for it.
    pub fn shared(&self, key: &Key, now: u32) -> Shared {
        let mut pool = self.http2.borrow_mut();
        let place = pool.entry(*key).or_default();
        if is_closed(&place.cell) {
            *place = Place::default();
        }
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
            kept.retain(|kept| {
                let is_old = u64::from(now.saturating_sub(kept.since)) > longest;
                !(kept.sender.is_closed() || (is_old && kept.sender.is_ready()))
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
    cell.get().is_some_and(|sender| sender.is_closed())
}
