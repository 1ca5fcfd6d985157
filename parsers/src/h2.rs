//! Weighing of HTTP/2 frames (RFC 9113 section 4.1), beside the HTTP engine.
//!
//! The engine answers every PING and every SETTINGS, which costs the peer nothing. [`FrameScale`] walks over a
//! client's bytes, without understanding more than frame headers, and tells frames that move a request
//! on from those that only make work.

#[cfg(test)]
mod tests;

use crate::detect::H2_PREFACE;

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Frames of one client, told apart.
#[derive(Debug)]
pub struct FrameScale {
    /// Bytes to skip: of the preface, or of the payload of the frame under way.
    skip: usize,
    header: [u8; HEADER],
    /// How much of `header` is there.
    have: usize,
    /// HEADERS, and DATA that is not empty.
    pub useful: u32,
    /// All others: PING, SETTINGS, RST_STREAM, WINDOW_UPDATE, PRIORITY, CONTINUATION, empty DATA, unknown ones.
    pub control: u32,
}

impl Default for FrameScale {
    fn default() -> Self {
        Self { skip: H2_PREFACE.len(), header: [0; HEADER], have: 0, useful: 0, control: 0 }
    }
}

impl FrameScale {
    /// Walks over `bytes`, the next ones of the client, preface first.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                self.frame();
            }
        }
    }

    /// Begins to count anew.
    pub fn reset(&mut self) {
        (self.useful, self.control) = (0, 0);
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, ..] = self.header;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_useful = kind == HEADERS || (kind == DATA && self.skip > 0);
        let count = if is_useful { &mut self.useful } else { &mut self.control };
        *count = count.saturating_add(1);
    }
}
