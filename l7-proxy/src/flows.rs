//! Access records: one [`wire::Flow`](crate::wire::Flow) for each request or connection, encoded straight
//! into a buffer of its worker and handed to the agent in batches. Nobody waits for them: when the queue is
//! full a batch is dropped and counted.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::{Direction, DropReason};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::{Notify, mpsc};

use crate::kernel::ConnectionRecord;

#[cfg(test)]
mod tests;

/// Batches on their way to the agent, from all workers.
pub const QUEUE_BATCHES: usize = 256;
/// A batch is sent when it has so many bytes, or when its first record is so old.
const BATCH_BYTES: usize = 32 << 10;
const BATCH_AGE: Duration = Duration::from_millis(50);
/// Longest text field in bytes; the rest is cut off (a path may be 64 KiB long).
const TEXT_MAX: usize = 1024;

/// What is the same for every record of one connection.
#[derive(Debug)]
pub struct FlowSource {
    source: String,
    destination: String,
    /// As of the configuration in force: the pod behind an address may have got other labels.
    record: Cell<ConnectionRecord>,
}

impl FlowSource {
    /// Of the connection from `client` to `destination`.
    pub fn new(client: SocketAddr, destination: SocketAddr, record: ConnectionRecord) -> Self {
        Self { source: client.to_string(), destination: destination.to_string(), record: Cell::new(record) }
    }

    /// From now on records name who `record` names.
    pub fn set_record(&self, record: ConnectionRecord) {
        self.record.set(record);
    }
}

/// What differs from record to record; `Default` is a forwarded nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowFields<'a> {
    pub backend: &'a str,
    /// Identity and endpoint of the backend, if the connection's record does not know them (a VIP).
    pub target: Option<(u32, u32)>,
    /// `None`: forwarded.
    pub reason: Option<DropReason>,
    pub detail: &'a str,
    pub rule: u32,
    pub direction: Option<Direction>,
    pub protocol: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub host: &'a str,
    pub status: u16,
    pub latency: Duration,
    pub revision: u32,
}

/// Records ready to be sent.
#[derive(Debug)]
pub struct FlowBatch {
    /// Field 1 of [`wire::Flows`](crate::wire::Flows), many times.
    records: Vec<u8>,
    lost: u64,
}

impl FlowBatch {
    /// The frame of a [`wire::ProxyMessage`](crate::wire::ProxyMessage).
    pub fn into_frame(self) -> Vec<u8> {
        let mut lost = Vec::with_capacity(11);
        put_number(&mut lost, 2, self.lost);
        let flows = self.records.len() + lost.len();
        let message = 1 + encoded_len_varint(flows as u64) + flows;
        let mut frame = Vec::with_capacity(4 + message);
        frame.extend_from_slice(&(message as u32).to_be_bytes());
        encode_key(3, WireType::LengthDelimited, &mut frame);
        encode_varint(flows as u64, &mut frame);
        frame.extend_from_slice(&self.records);
        frame.extend_from_slice(&lost);
        frame
    }
}

/// The records of one worker.
#[derive(Debug)]
pub struct FlowLog {
    queue: mpsc::Sender<FlowBatch>,
    buffer: RefCell<Vec<u8>>,
    scratch: RefCell<Vec<u8>>,
    records: Cell<u64>,
    /// Lost since the last batch that was sent.
    lost: Cell<u64>,
    lost_total: Cell<u64>,
    started: Notify,
}

impl FlowLog {
    /// A log that hands its batches to `queue`.
    pub fn new(queue: mpsc::Sender<FlowBatch>) -> Self {
        Self {
            queue,
            buffer: RefCell::default(),
            scratch: RefCell::default(),
            records: Cell::new(0),
            lost: Cell::new(0),
            lost_total: Cell::new(0),
            started: Notify::new(),
        }
    }

    /// Adds a record.
    pub fn record(&self, source: &FlowSource, fields: &FlowFields<'_>) {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        encode(source, fields, &mut scratch);
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            self.started.notify_one();
        }
        encode_key(1, WireType::LengthDelimited, &mut *buffer);
        encode_varint(scratch.len() as u64, &mut *buffer);
        buffer.extend_from_slice(&scratch);
        self.records.set(self.records.get() + 1);
        if buffer.len() >= BATCH_BYTES {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let records = self.buffer.take();
        if records.is_empty() {
            return;
        }
        let count = self.records.replace(0);
        let lost = self.lost.replace(0);
        *self.buffer.borrow_mut() = Vec::with_capacity(records.len());
        if self.queue.try_send(FlowBatch { records, lost }).is_err() {
            self.lost.set(lost + count);
            self.lost_total.set(self.lost_total.get() + count);
        }
    }

    /// Records lost so far.
    pub fn lost(&self) -> u64 {
        self.lost_total.get()
    }

    /// Flushes batches that do not fill up, for ever.
    pub async fn flush_in_time(&self) {
        loop {
            self.started.notified().await;
            tokio::time::sleep(BATCH_AGE).await;
            self.flush();
        }
    }
}

/// The fields of [`wire::Flow`](crate::wire::Flow), by number; a test holds them against its decoder.
fn encode(source: &FlowSource, fields: &FlowFields<'_>, out: &mut Vec<u8>) {
    let record = source.record.get();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (dst_identity, dst_endpoint) = fields.target.unwrap_or((record.dst_identity, record.dst_endpoint));
    put_number(out, 1, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    put_text(out, 2, &source.source);
    put_text(out, 3, &source.destination);
    put_text(out, 4, fields.backend);
    put_number(out, 5, record.src_identity.into());
    put_number(out, 6, dst_identity.into());
    put_number(out, 7, record.src_endpoint.into());
    put_number(out, 8, dst_endpoint.into());
    put_number(out, 9, fields.reason.is_none().into());
    put_number(out, 10, fields.reason.map_or(0, |reason| reason as u64));
    put_text(out, 11, fields.detail);
    put_number(out, 12, fields.rule.into());
    put_number(out, 13, fields.direction.map_or(0, |direction| direction as u64));
    put_text(out, 14, fields.protocol);
    put_text(out, 15, fields.method);
    put_text(out, 16, fields.path);
    put_text(out, 17, fields.host);
    put_number(out, 18, fields.status.into());
    put_number(out, 19, u64::try_from(fields.latency.as_nanos()).unwrap_or(u64::MAX));
    put_number(out, 20, fields.revision.into());
}

fn put_number(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_text(out: &mut Vec<u8>, tag: u32, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(text.len() as u64, out);
        out.extend_from_slice(text.as_bytes());
    }
}
