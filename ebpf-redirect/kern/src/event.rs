//! Counters and events. Every drop is counted; events have a budget per second and CPU, and those left
//! out are counted too.

use abi::{Counter, Direction, DropReason, Event, EventKind};
use aya_ebpf::helpers::generated as helpers;

use crate::{
    flow::{self, Current, DONE},
    maps::{BUCKETS, COUNTERS, DROPS, EVENTS},
    skb,
};

const SECOND_NS: u64 = 1_000_000_000;

/// A CPU's event budget: a token bucket that holds one second's worth.
#[repr(C)]
pub struct Bucket {
    filled_ns: u64,
    /// Tokens times [`SECOND_NS`], so that no division is needed.
    level: u64,
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
        unsafe { *count += 1 }
    }
}

/// Counts and reports a drop, and gives the program's return code.
#[inline(always)]
pub fn dropped(flow: Current, reason: DropReason) -> i32 {
    count_drop(reason, flow.direction);
    emit(flow, flow.drop_kind, reason as u8);
    skb::SHOT
}

/// Counts a drop that has no event.
#[inline(always)]
pub fn count_drop(reason: DropReason, direction: Direction) {
    if let Some(count) = DROPS.get_ptr_mut(abi::drop_slot(reason, direction)) {
        unsafe { *count += 1 }
    }
}

/// Reports what happened to the packet in hand, budget permitting.
#[inline(always)]
pub fn emit(_: Current, kind: EventKind, reason: u8) {
    emit_event(kind as u32, reason as u32);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_event(kind: u32, reason: u32) -> u32 {
    if let Some(flow) = Current::fetch() {
        report(flow, kind as u8, reason as u8);
    }
    DONE
}

#[inline(always)]
fn report(mut flow: Current, kind: u8, reason: u8) {
    let (limit, revision) = match flow::config() {
        Ok(config) => (config.events_per_second, config.revision),
        Err(_) => (1, 0),
    };
    if !take_token(flow.now_ns, limit) {
        return count(Counter::EventsLeftOut);
    }
    flow.event.time_ns = unsafe { helpers::bpf_ktime_get_ns() };
    flow.event.src = flow.key.src;
    flow.event.dst = flow.key.dst;
    flow.event.src_identity = flow.src.identity;
    flow.event.dst_identity = flow.dst.identity;
    flow.event.src_endpoint = flow.src.endpoint;
    flow.event.dst_endpoint = flow.dst.endpoint;
    flow.event.rule = flow.rule;
    flow.event.revision = revision;
    flow.event.kind = kind;
    flow.event.reason = reason;
    flow.event.direction = flow.direction as u8;
    flow.event.proto = flow.key.proto;
    flow.event.tcp_flags = flow.tcp_flags;
    // Its padding was never anything but zero.
    flow.event.sport = flow.key.sport;
    flow.event.dport = flow.key.dport;
    if flow.key.proto == abi::proto::ICMP || flow.key.proto == abi::proto::ICMPV6 {
        // An echo reply keeps its identifier in `dport` of the key.
        flow.event.sport = flow.key.sport | flow.key.dport;
        flow.event.dport = u16::from_be_bytes([flow.icmp_type, flow.icmp_code]).to_be();
    }
    send(&flow.event);
}

/// Puts an event into the ring; a full ring counts as left out.
#[inline(always)]
pub fn send(event: &Event) {
    let failed = unsafe {
        helpers::bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            core::ptr::from_ref(event).cast_mut().cast(),
            size_of::<Event>() as u64,
            0,
        )
    };
    if failed != 0 {
        count(Counter::EventsLeftOut);
    }
}

/// Takes one event out of this CPU's budget of `limit` a second; 0 = no limit.
#[inline(always)]
pub fn take_token(now_ns: u64, limit: u32) -> bool {
    if limit == 0 {
        return true;
    }
    let Some(bucket) = BUCKETS.get_ptr_mut(0) else { return false };
    let bucket = unsafe { &mut *bucket };
    let full = limit as u64 * SECOND_NS;
    // The tc programs read a coarser clock than the socket hooks.
    let idle_ns = now_ns.saturating_sub(bucket.filled_ns);
    bucket.filled_ns += idle_ns;
    // After a second the bucket is full in any case; below it nothing overflows.
    bucket.level =
        if idle_ns >= SECOND_NS { full } else { (bucket.level + idle_ns * limit as u64).min(full) };
    if bucket.level < SECOND_NS {
        return false;
    }
    bucket.level -= SECOND_NS;
    true
}
