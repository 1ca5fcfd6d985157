//! The stream of events from the programs.

use std::fmt;
use std::io;
use std::path::Path;

use abi::Event;
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::MapError;
use crate::object::EVENTS;

/// Most events of one batch; a slow reader gets more batches, not longer ones.
const BATCH_MAX: usize = 1024;

/// The events of the kernel programs, in the order in which they happened on each CPU.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn open(pin: &Path) -> Result<Self, MapError> {
        let open = || {
            let data = MapData::from_pin(pin).map_err(io::Error::other)?;
            let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
            // SAFETY: the ring owns its descriptor, open and the same for as long as it lives, and AsyncFd
            // owns the ring.
            #[allow(unsafe_code)]
            let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
            ring.map_err(|error| error.into_parts().1)
        };
        open().map(|ring| Self { ring }).map_err(MapError::io(EVENTS, "open the ring"))
    }

    /// The next events: one or more. Cancelling it loses none.
    ///
    /// # Errors
    /// If the runtime cannot wait for the ring (it is shutting down).
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let batch = drain(ready.get_inner_mut());
            if batch.len() < BATCH_MAX {
                // The ring is empty. What comes from here on wakes us again: the readiness that is
                // cleared is only the one seen above.
                ready.clear_ready();
            }
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<Event> {
    let mut batch = Vec::new();
    while batch.len() < BATCH_MAX {
        let Some(record) = ring.next() else { break };
        match crate::map::from_bytes(&record) {
            Some(event) => batch.push(event),
            None => tracing::warn!(bytes = record.len(), "a record of the event ring has a foreign length"),
        }
    }
    batch
}
