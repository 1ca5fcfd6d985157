//! The connection map: one entry per connection, keyed by the tuple of its first packet. It is at once
//! connection tracking and the record that the proxy trusts.

use crate::Addr;

/// Key of map `CONNECTIONS`: the tuple in the direction of the connection's first packet. For ICMP echo
/// `sport` is the identifier and `dport` 0; for a kept VIP `dst` is the VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey {
    pub src: Addr,
    pub dst: Addr,
    /// Network order.
    pub sport: u16,
    /// Network order.
    pub dport: u16,
    /// IANA protocol number.
    pub proto: u8,
    pub _pad: [u8; 3],
}

/// Value of map `CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnEntry {
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC) after which the entry is dead; see [`conn_timeout_ns`].
    pub expires_ns: u64,
    /// Policy revision that decided it last.
    pub revision: u32,
    /// See [`conn_flags`].
    pub flags: u32,
    pub src_identity: u32,
    pub dst_identity: u32,
    /// Local endpoint that opened it, or 0.
    pub src_endpoint: u32,
    /// Local endpoint that it was opened to, or 0 (also for a kept VIP: no backend is chosen yet).
    pub dst_endpoint: u32,
    /// Rule that decided it; see [`crate::Decision::rule`].
    pub rule: u32,
    /// Who it is charged to; see [`account`].
    pub account: u32,
}

/// Who a connection is charged to: keys of the maps `OPENED` and `RELEASED`. What a pod opens and what is
/// opened to it from elsewhere are two accounts, so that a flood from outside does not stop its own calls.
pub mod account {
    /// The node's own processes.
    pub const NODE: u32 = 0;
    /// All accounts together.
    pub const TOTAL: u32 = 1;

    /// What a local endpoint (id 1 or more) opened itself, or what was opened to it from outside the node.
    pub const fn of(endpoint: u32, opened_by_it: bool) -> u32 {
        endpoint << 1 | opened_by_it as u32
    }

    /// The endpoint of an account, and whether it is for what the endpoint opened itself.
    pub const fn endpoint(account: u32) -> Option<(u32, bool)> {
        if account <= TOTAL { None } else { Some((account >> 1, account & 1 != 0)) }
    }
}

/// Divides what is left of the map: the part that only the node's own connections (probes) may use.
const NODE_SHARE: u64 = 32;
/// One account may hold a third of what is left free: a quarter of the map if it is alone, and however many
/// are greedy, there is room for another. (Choudhury and Hahne, dynamic queue length thresholds, 1998.)
const FREE_SHARE: u64 = 3;

/// How many connections one account may hold while the map has room for `room` and holds `total`. The node's
/// own account has no such limit.
pub const fn connections_allowed(room: u64, total: u64) -> u64 {
    (room - room / NODE_SHARE).saturating_sub(total) / FREE_SHARE
}

/// Bits of [`ConnEntry::flags`].
pub mod conn_flags {
    /// Given to the proxy; without this bit it is direct.
    pub const REDIRECTED: u32 = 1;
    /// Redirected for a kept service VIP: the proxy decides for the backend it chooses.
    pub const VIP: u32 = 2;
    /// Redirected by the ingress listener (client not on this node), otherwise by the egress one.
    pub const INGRESS: u32 = 4;
    /// A packet of the reverse direction was seen.
    pub const REPLIED: u32 = 8;
    /// FIN seen from the side that opened it.
    pub const FIN_FORWARD: u32 = 16;
    /// FIN seen from the other side.
    pub const FIN_REVERSE: u32 = 32;
    /// Opened by the node itself towards one of its pods.
    pub const FROM_NODE: u32 = 64;
    /// RST seen from either side.
    pub const RST: u32 = 128;
    /// The side that opened it has gone on after a reply: both ends live.
    pub const ASSURED: u32 = 256;
}

/// Lifetimes of idle connections, in nanoseconds. After the values of `net.netfilter.nf_conntrack_*`.
pub mod conn_timeout_ns {
    pub const TCP_ESTABLISHED: u64 = 8_000 * 1_000_000_000;
    /// Answered, but the side that opened it has not gone on.
    pub const TCP_OPENING: u64 = 60 * 1_000_000_000;
    /// Without an answer. A SYN that is sent again enters it again.
    pub const TCP_SYN: u64 = 20 * 1_000_000_000;
    pub const TCP_CLOSING: u64 = 10 * 1_000_000_000;
    /// A datagram without an answer, or one question and its answer (`nf_conntrack_udp_timeout`).
    pub const UDP: u64 = 30 * 1_000_000_000;
    /// A conversation (`nf_conntrack_udp_timeout_stream`).
    pub const UDP_STREAM: u64 = 120 * 1_000_000_000;
    pub const ICMP: u64 = 30 * 1_000_000_000;
}

/// Key of map `FRAGMENTS` (LRU): a datagram whose first fragment was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    pub src: Addr,
    pub dst: Addr,
    /// Identification of the IPv4 header or of the IPv6 fragment header, network order.
    pub id: u32,
    /// Protocol of the IPv4 header, or what the IPv6 fragment header names.
    pub proto: u8,
    pub _pad: [u8; 3],
}

/// Value of map `FRAGMENTS`: what the later fragments do not carry. Fields as in [`ConnKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentEntry {
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
    pub icmp_type: u8,
    pub icmp_code: u8,
    pub _pad: u8,
}
