//! From a frame to addresses, protocol and ports. What cannot be parsed is an error with its reason.
//!
//! [`network`] reads the IP header and stops before layer 4, so that a device that also carries the
//! node's own traffic can look at the addresses first; [`transport`] reads the rest.

pub mod ipv4;
pub mod ipv6;

use abi::{Addr, DropReason, FragmentEntry, proto};
use aya_ebpf::bindings::__sk_buff;

use crate::{
    flow::{Current, FAILED, Kind, Part, tcp},
    maps::FRAGMENTS,
    skb,
};

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
pub const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;

/// Results of reading one option or extension header.
struct Step;

impl Step {
    const MORE: u32 = 0;
    const LAST: u32 = 1;
    const BAD: u32 = 2;
}

/// ICMP types that are spoken of by name (RFC 792, RFC 4443, RFC 4861, RFC 3810).
pub mod icmp_type {
    pub const V4_ECHO_REPLY: u8 = 0;
    pub const V4_UNREACHABLE: u8 = 3;
    pub const V4_ECHO: u8 = 8;
    pub const V4_TIME_EXCEEDED: u8 = 11;
    pub const V4_PARAMETER_PROBLEM: u8 = 12;
    pub const V6_UNREACHABLE: u8 = 1;
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    pub const V6_ECHO: u8 = 128;
    pub const V6_ECHO_REPLY: u8 = 129;
    pub const V6_LISTENER_QUERY: u8 = 130;
    pub const V6_LISTENER_DONE: u8 = 132;
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const V6_REDIRECT: u8 = 137;
    pub const V6_LISTENER_REPORT_2: u8 = 143;
}

/// Reads the frame up to the layer 4 header: kind, addresses, protocol, fragment.
#[inline(always)]
pub fn network(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    flow.outcome(parse_network(skb))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_network(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return FAILED };
    flow.code(read_network(skb, flow))
}

#[inline(always)]
fn read_network(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    if skb::has_vlan_tag(skb) {
        return Err(DropReason::UnsupportedL2);
    }
    match skb::protocol(skb) {
        ETH_P_IP => {
            flow.kind = Kind::V4;
            ipv4::header(skb, flow)
        }
        ETH_P_IPV6 => {
            flow.kind = Kind::V6;
            ipv6::headers(skb, flow)
        }
        ETH_P_ARP => {
            flow.kind = Kind::Arp;
            Ok(())
        }
        // Also a second VLAN tag (0x8100, 0x88a8), which the kernel leaves in the frame.
        _ => Err(DropReason::UnsupportedL2),
    }
}

/// Reads ports, TCP flags, ICMP type; for a later fragment, what its first one said.
#[inline(always)]
pub fn transport(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    flow.outcome(parse_transport(skb))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_transport(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return FAILED };
    flow.code(read_transport(skb, flow))
}

#[inline(always)]
fn read_transport(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    if flow.part == Part::Later {
        return follow_first(flow);
    }
    match flow.key.proto {
        proto::TCP => tcp_header(skb, flow)?,
        proto::UDP => ports(skb, flow, 8)?,
        proto::SCTP => ports(skb, flow, 12)?,
        proto::ICMP if flow.kind == Kind::V4 => icmp_header(skb, flow)?,
        proto::ICMPV6 if flow.kind == Kind::V6 => icmp_header(skb, flow)?,
        _ => return Err(DropReason::UnsupportedL4),
    }
    if flow.part == Part::First {
        remember_first(flow);
    }
    Ok(())
}

/// The layer 4 header must be wholly inside the packet (RFC 7112 for first fragments).
#[inline(always)]
fn require(flow: Current, bytes: u32) -> Result<(), DropReason> {
    if flow.end != 0 && flow.l4 + bytes > flow.end {
        return Err(DropReason::InvalidPacket);
    }
    Ok(())
}

#[inline(always)]
fn ports(skb: *mut __sk_buff, mut flow: Current, header: u32) -> Result<(), DropReason> {
    require(flow, header)?;
    let [sport, dport] = skb::load::<[u16; 2]>(skb, flow.l4)?;
    flow.key.sport = sport;
    flow.key.dport = dport;
    Ok(())
}

#[inline(always)]
fn tcp_header(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    require(flow, 20)?;
    let words = skb::load::<[u16; 7]>(skb, flow.l4)?;
    flow.key.sport = words[0];
    flow.key.dport = words[1];
    let [offset, flags] = words[6].to_ne_bytes();
    flow.tcp_flags = flags;
    // A SYN that also ends the connection is nobody's honest packet.
    if offset >> 4 < 5 || flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0 {
        return Err(DropReason::InvalidPacket);
    }
    Ok(())
}

/// For an echo the key is the connection's: identifier as source port of the request.
#[inline(always)]
fn icmp_header(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    require(flow, 8)?;
    let [kind_and_code, _, id, _] = skb::load::<[u16; 4]>(skb, flow.l4)?;
    let [icmp_type, code] = kind_and_code.to_ne_bytes();
    flow.icmp_type = icmp_type;
    flow.icmp_code = code;
    if flow.is_echo() {
        flow.key.sport = id;
    } else if flow.is_echo_reply() {
        flow.key.dport = id;
    }
    Ok(())
}

#[inline(always)]
fn remember_first(flow: Current) {
    let entry = FragmentEntry {
        sport: flow.key.sport,
        dport: flow.key.dport,
        proto: flow.key.proto,
        icmp_type: flow.icmp_type,
        icmp_code: flow.icmp_code,
        _pad: 0,
    };
    // If this fails the later fragments are dropped: fail closed.
    let _ = FRAGMENTS.insert(&flow.fragment, &entry, 0);
}

#[inline(always)]
fn follow_first(mut flow: Current) -> Result<(), DropReason> {
    let Some(first) = FRAGMENTS.get_ptr(&flow.fragment) else {
        return Err(DropReason::FragmentNotFound);
    };
    let first = unsafe { &*first };
    flow.key.sport = first.sport;
    flow.key.dport = first.dport;
    flow.key.proto = first.proto;
    flow.icmp_type = first.icmp_type;
    flow.icmp_code = first.icmp_code;
    Ok(())
}

/// Reads the packet that an ICMP error is about into `flow.other`: its tuple as its sender knew it.
///
/// # Errors
/// [`DropReason::InvalidPacket`] if there is none that we understand.
#[inline(always)]
pub fn embedded(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    let inner = flow.l4 + 8;
    let l4 = if flow.kind == Kind::V6 {
        let header = skb::load::<ipv6::Header>(skb, inner)?;
        flow.other.src = Addr(header.src);
        flow.other.dst = Addr(header.dst);
        flow.other.proto = header.next;
        inner + ipv6::HEADER_BYTES
    } else {
        let header = skb::load::<ipv4::Header>(skb, inner)?;
        flow.other.src = ipv4::mapped(header.src);
        flow.other.dst = ipv4::mapped(header.dst);
        flow.other.proto = header.proto;
        inner + header.bytes()
    };
    flow.other._pad = [0; 3];
    let words = skb::load::<[u16; 4]>(skb, l4)?;
    match flow.other.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            flow.other.sport = words[0];
            flow.other.dport = words[1];
            Ok(())
        }
        proto::ICMP | proto::ICMPV6 => {
            // An echo's key has the identifier as source port, in whichever direction the echo went.
            flow.other.sport = words[2];
            flow.other.dport = 0;
            Ok(())
        }
        _ => Err(DropReason::InvalidPacket),
    }
}
