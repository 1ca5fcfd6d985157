//! Waiting for conditions, instead of sleeping.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value; after `limit` panics with what it said last.
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {limit:?}; last: {last}"),
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}
