//! The packet in hand and all that is found out about it on its way through a program.
//!
//! It lives in a per-CPU map: tc programs of one CPU never run inside one another.
//!
//! Functions with a plain symbol (`no_mangle`) are global ones: the verifier checks each by itself, once,
//! instead of on every path that leads to it; otherwise there are more paths than it has patience for. They
//! take the context and numbers only, and return a number.

use core::ops::{Deref, DerefMut};

use abi::{
    Addr, Config, ConnEntry, ConnKey, Direction, DropReason, EndpointEntry, Event, EventKind, FragmentKey,
    IpcacheEntry, IpcacheKey, PolicyKey, ServiceKey, Verdict, proto,
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated as helpers};

use crate::{
    maps::{CONFIG, FLOWS},
    parse::icmp_type,
    skb,
};

/// What a packet is below layer 4.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Arp,
    V4,
    V6,
}

/// Which part of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The first fragment: has the layer 4 header.
    First,
    /// A later one: follows the first.
    Later,
}

/// How a program was reached; the rules differ a little.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    FromPod,
    FromNetdev,
    FromNode,
    ToPod,
}

/// State of one packet.
#[repr(C)]
pub struct Flow {
    /// The packet's own tuple.
    pub key: ConnKey,
    /// The tuple of a connection that this packet may belong to.
    pub other: ConnKey,
    /// A connection entry under construction.
    pub fresh: ConnEntry,
    pub event: Event,
    pub src: IpcacheEntry,
    pub dst: IpcacheEntry,
    pub prefix: IpcacheKey,
    pub policy: PolicyKey,
    pub service: ServiceKey,
    pub fragment: FragmentKey,
    /// Argument of socket lookups: `struct bpf_sock_tuple`.
    pub tuple: [u32; 9],
    /// Offset of the layer 4 header.
    pub l4: u32,
    /// Offset behind the packet's last byte; 0 if the header does not say (jumbo packets).
    pub end: u32,
    /// Offset of the IPv4 option that is read, from the first.
    pub option: u32,
    /// Rule that decided.
    pub rule: u32,
    /// See [`Current::begin`].
    pub now_ns: u64,
    pub verdict: Verdict,
    /// Why a function of its own failed.
    pub reason: DropReason,
    /// Direction of the policy that decided.
    pub direction: Direction,
    /// Decided by a kept VIP.
    pub vip: bool,
    /// May go to its destination as it is.
    pub direct: bool,
    pub kind: Kind,
    pub part: Part,
    pub hook: Hook,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub icmp_code: u8,
    pub hop_limit: u8,
    /// The event of a drop: a plain one, or the end of a live connection.
    pub drop_kind: EventKind,
}

/// Handle of the packet in hand. It is a pointer and not a `&mut`, because the functions that the verifier
/// checks one by one fetch it for themselves ([`Current::fetch`]) while their callers hold it.
#[derive(Clone, Copy)]
pub struct Current(*mut Flow);

impl Deref for Current {
    type Target = Flow;

    #[inline(always)]
    fn deref(&self) -> &Flow {
        unsafe { &*self.0 }
    }
}

impl DerefMut for Current {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Flow {
        unsafe { &mut *self.0 }
    }
}

impl Current {
    /// This CPU's flow.
    #[inline(always)]
    pub fn fetch() -> Option<Self> {
        FLOWS.get_ptr_mut(0).map(Self)
    }

    /// The state for a new packet, with nothing known about it.
    #[inline(always)]
    pub fn begin(skb: *mut __sk_buff, hook: Hook) -> Option<Self> {
        let mut flow = Self::fetch()?;
        // Of the last tick (1 to 10 ms ago): lifetimes and budgets are seconds, and reading the clock is not free.
        flow.now_ns = unsafe { helpers::bpf_ktime_get_coarse_ns() };
        clear::<_, 10>(&mut flow.key);
        clear::<_, 4>(&mut flow.src);
        clear::<_, 4>(&mut flow.dst);
        flow.rule = 0;
        flow.direction =
            if hook as u8 == Hook::FromPod as u8 { Direction::Egress } else { Direction::Ingress };
        flow.vip = false;
        flow.direct = false;
        flow.part = Part::Whole;
        flow.hook = hook;
        // Volatile, or these neighbours become a call of memset.
        unsafe { core::ptr::write_volatile(&raw mut flow.tcp_flags, 0) };
        flow.icmp_type = 0;
        flow.icmp_code = 0;
        flow.drop_kind = EventKind::Drop;
        flow.event.ifindex = skb::ifindex(skb);
        Some(flow)
    }

    /// The result of a function of its own: [`DONE`], or the reason is in the flow.
    #[inline(always)]
    pub fn outcome(self, code: u32) -> Result<(), DropReason> {
        if code == DONE { Ok(()) } else { Err(self.reason) }
    }

    /// The other way round.
    #[inline(always)]
    pub fn code(mut self, outcome: Result<(), DropReason>) -> u32 {
        match outcome {
            Ok(()) => DONE,
            Err(reason) => {
                self.reason = reason;
                FAILED
            }
        }
    }
}

/// Zeroes a value of `N` words, word by word: what LLVM makes of a plain assignment is a call of memset, which
/// goes byte by byte.
#[inline(always)]
fn clear<T, const N: usize>(value: &mut T) {
    const { assert!(size_of::<T>() == 4 * N) };
    let words = core::ptr::from_mut(value).cast::<u32>();
    for index in 0..N {
        unsafe { core::ptr::write_volatile(words.add(index), 0) };
    }
}

/// A function of its own succeeded.
pub const DONE: u32 = 0;
/// It did not: [`Flow::reason`] says why.
pub const FAILED: u32 = 1;

impl Flow {
    /// Whether this packet opens a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.key.proto == abi::proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// The ICMP type that policy is asked about: of the packet, or of the request that it answers.
    #[inline(always)]
    pub fn opening_type(&self, reply: bool) -> u8 {
        match (reply, self.kind) {
            (false, _) => self.icmp_type,
            (true, Kind::V6) => icmp_type::V6_ECHO,
            (true, _) => icmp_type::V4_ECHO,
        }
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.key.proto == abi::proto::ICMP || self.key.proto == abi::proto::ICMPV6
    }

    /// Whether this is an ICMP echo request.
    #[inline(always)]
    pub fn is_echo(&self) -> bool {
        match self.kind {
            Kind::V4 => self.key.proto == proto::ICMP && self.icmp_type == icmp_type::V4_ECHO,
            _ => self.key.proto == proto::ICMPV6 && self.icmp_type == icmp_type::V6_ECHO,
        }
    }

    /// Whether this is an ICMP echo reply.
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        match self.kind {
            Kind::V4 => self.key.proto == proto::ICMP && self.icmp_type == icmp_type::V4_ECHO_REPLY,
            _ => self.key.proto == proto::ICMPV6 && self.icmp_type == icmp_type::V6_ECHO_REPLY,
        }
    }

    /// The identity of a local endpoint on this packet's family.
    #[inline(always)]
    pub fn identity_of(&self, endpoint: &EndpointEntry) -> u32 {
        if self.kind as u8 == Kind::V6 as u8 { endpoint.identity_v6 } else { endpoint.identity_v4 }
    }

    /// Makes `other` the tuple of the opposite direction.
    #[inline(always)]
    pub fn reverse(&mut self) {
        self.other.src = self.key.dst;
        self.other.dst = self.key.src;
        self.other.sport = self.key.dport;
        self.other.dport = self.key.sport;
        // Its padding was never anything but zero.
        self.other.proto = self.key.proto;
    }
}

/// Bits of the TCP flags octet (RFC 9293 section 3.1).
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// The agent's settings.
///
/// # Errors
/// [`DropReason::NotConfigured`] while no agent of this ABI has written them.
#[inline(always)]
pub fn config() -> Result<&'static Config, DropReason> {
    match CONFIG.get(0) {
        Some(config) if config.abi_version == abi::ABI_VERSION => Ok(config),
        _ => Err(DropReason::NotConfigured),
    }
}

/// Whether two addresses are one. Word by word: a comparison of arrays would be a call of memcmp.
#[inline(always)]
pub fn same(a: &Addr, b: &Addr) -> bool {
    a.0[0] == b.0[0] && a.0[1] == b.0[1] && a.0[2] == b.0[2] && a.0[3] == b.0[3]
}
