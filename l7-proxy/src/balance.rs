//! Choosing a backend: the one with fewer requests in flight of two random ones, or for services with
//! session affinity always the same one for a client while the set of backends stays.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use crate::config::{Backend, Service};

#[cfg(test)]
mod tests;

/// The backend for the next request of `client`; `None` if there is no ready one.
pub fn pick(service: &Service, client: IpAddr) -> Option<&Backend> {
    let backends = &service.backends;
    if service.affinity {
        return backends.iter().max_by_key(|backend| weight(client, backend));
    }
    match backends.len() {
        0 | 1 => backends.first(),
        count => {
            let first = fastrand::usize(..count);
            // Another one, all equally likely.
            let second = (first + fastrand::usize(1..count)) % count;
            let [a, b] = [&backends[first], &backends[second]];
            Some(if b.active.load(Relaxed) < a.active.load(Relaxed) { b } else { a })
        }
    }
}

/// Rendezvous hashing: when a backend comes or goes, only its own clients move. The hasher has fixed keys,
/// so that all workers and a restarted proxy agree.
fn weight(client: IpAddr, backend: &Backend) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, backend.address).hash(&mut hasher);
    hasher.finish()
}
