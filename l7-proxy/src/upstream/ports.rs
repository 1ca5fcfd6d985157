//! Source ports of upstream connections. The kernel's choice would collide with the client's own
//! connections, so the ranges are reserved in every pod and handed out here.

use std::cell::Cell;

use abi::{PORT_EGRESS, PORT_INGRESS};

use super::Face;

/// The ports of one worker: every `workers`-th of both ranges, so that workers meet only when they wrap.
#[derive(Debug)]
pub struct Ports {
    egress: Range,
    ingress: Range,
}

impl Ports {
    /// Of worker `index` out of `workers`; starts anywhere, so that a restarted proxy does not begin where
    /// its predecessor's connections are.
    pub fn new(index: usize, workers: usize) -> Self {
        Self {
            egress: Range::new(PORT_EGRESS, index, workers),
            ingress: Range::new(PORT_INGRESS, index, workers),
        }
    }

    /// The next port for `face`; 0 where the kernel chooses.
    pub fn next(&self, face: Face) -> u16 {
        match face {
            Face::Node => 0,
            Face::LocalClient(_) => self.egress.next(),
            Face::RemoteClient(_) => self.ingress.next(),
        }
    }
}

#[derive(Debug)]
struct Range {
    first: u16,
    /// Distance between two ports of this worker.
    stride: u16,
    /// How many there are.
    count: u16,
    at: Cell<u16>,
}

impl Range {
    fn new((first, last): (u16, u16), index: usize, workers: usize) -> Self {
        let total = usize::from(last - first) + 1;
        let stride = workers.clamp(1, total);
        let offset = index % stride;
        let count = (total - offset).div_ceil(stride);
        // All three are at most `total`, which fits.
        let (offset, stride, count) = (offset as u16, stride as u16, count as u16);
        Self { first: first + offset, stride, count, at: Cell::new(fastrand::u16(0..count)) }
    }

    fn next(&self) -> u16 {
        let at = self.at.get();
        self.at.set(if at + 1 >= self.count { 0 } else { at + 1 });
        self.first + at * self.stride
    }
}
