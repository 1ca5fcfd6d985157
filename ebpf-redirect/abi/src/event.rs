//! Events: what the programs tell the agent, through the ring buffer `EVENTS`.

use crate::Addr;

/// Kind of an [`Event`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped; `reason` says why.
    Drop = 1,
    /// A new connection was allowed and goes its way in the kernel.
    New = 2,
    /// A new connection was given to the proxy.
    Redirect = 3,
    /// A live connection was decided anew and ended.
    Revoked = 4,
}

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    pub src: Addr,
    pub dst: Addr,
    pub src_identity: u32,
    pub dst_identity: u32,
    /// Local endpoints, or 0.
    pub src_endpoint: u32,
    pub dst_endpoint: u32,
    /// Rule that decided; 0: no rule did.
    pub rule: u32,
    pub revision: u32,
    pub ifindex: u32,
    /// Network order; for ICMP `dport` holds type (high byte) and code.
    pub sport: u16,
    pub dport: u16,
    /// [`EventKind`].
    pub kind: u8,
    /// [`crate::DropReason`], or 0.
    pub reason: u8,
    /// [`crate::Direction`] whose policy decided.
    pub direction: u8,
    /// IANA protocol number, 0 if the packet could not be parsed that far.
    pub proto: u8,
    /// TCP flags of the packet.
    pub tcp_flags: u8,
    pub _pad: [u8; 3],
}

/// Index into map `COUNTERS` (per-CPU u64s).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Events that the rate limit or a full ring left out.
    EventsLeftOut = 0,
    /// New connections that go their way in the kernel.
    NewDirect = 1,
    /// New connections given to the proxy.
    NewRedirected = 2,
    /// Connections translated to a backend by the socket hooks.
    Translated = 3,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: u32 = 4;
}
