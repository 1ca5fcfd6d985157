//! ICMP beside echo: errors that belong to a known connection pass, neighbour discovery passes, anything
//! else is for policy, packet by packet.

use abi::{Addr, ConnEntry, DropReason, Verdict, conn_flags, ipcache_flags, mark, proto};
use aya_ebpf::bindings::__sk_buff;

use crate::{
    conn,
    decide::{self, Opener},
    flow::{self, Current, Hook, Kind},
    parse::{self, icmp_type},
    skb, steer,
};

/// Hop limit of a packet that no router has forwarded (RFC 4861 section 7.1).
const UNROUTED: u8 = 255;

/// Decides an ICMP packet that is neither echo nor echo reply.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn decide(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    if is_error(flow)
        && let Some(bits) = related(skb)
    {
        if bits == mark::DIRECT {
            flow.direct = true;
        } else {
            skb::set_mark(skb, bits);
        }
        return Ok(());
    }
    decide::decide(flow, Opener::Sender);
    match flow.verdict {
        Verdict::Allow => {
            flow.direct = true;
            Ok(())
        }
        Verdict::Drop(reason) => Err(reason),
        // Unreachable: decide() redirects TCP only.
        Verdict::Redirect { .. } => Err(DropReason::UnsupportedL4),
    }
}

/// Whether this is an error message (RFC 792, RFC 4443 section 2.1), whose body is the packet it is about.
#[inline(always)]
pub fn is_error(flow: Current) -> bool {
    let kind = flow.icmp_type;
    match flow.key.proto {
        proto::ICMP => matches!(
            kind,
            icmp_type::V4_UNREACHABLE | icmp_type::V4_TIME_EXCEEDED | icmp_type::V4_PARAMETER_PROBLEM
        ),
        proto::ICMPV6 => kind >= icmp_type::V6_UNREACHABLE && kind <= icmp_type::V6_PARAMETER_PROBLEM,
        _ => false,
    }
}

/// The mark for an error about a packet of a known connection, or of the proxy's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn related_to(skb: *mut __sk_buff) -> u32 {
    let Some(mut flow) = Current::fetch() else { return 0 };
    if parse::embedded(skb, flow).is_err() || !flow::same(&flow.other.src, &flow.key.dst) {
        return 0;
    }
    if flow.other.proto == proto::TCP
        && flow.hook as u8 != Hook::ToPod as u8
        && steer::sent_by_proxy(skb, flow)
    {
        return mark::TO_PROXY;
    }
    if let Some(entry) = conn::find(&flow.other, flow.now_ns) {
        return mark_for(entry);
    }
    // The packet in error was a reply: turn its tuple around.
    let (src, sport) = (flow.other.src, flow.other.sport);
    flow.other.src = flow.other.dst;
    flow.other.dst = src;
    if flow.other.proto != proto::ICMP && flow.other.proto != proto::ICMPV6 {
        flow.other.sport = flow.other.dport;
        flow.other.dport = sport;
    }
    match conn::find(&flow.other, flow.now_ns) {
        Some(entry) => mark_for(entry),
        None => 0,
    }
}

/// See [`related_to`].
#[inline(always)]
pub fn related(skb: *mut __sk_buff) -> Option<u32> {
    match related_to(skb) {
        0 => None,
        bits => Some(bits),
    }
}

#[inline(always)]
fn mark_for(entry: &ConnEntry) -> u32 {
    if entry.flags & conn_flags::REDIRECTED != 0 { mark::TO_PROXY } else { mark::DIRECT }
}

/// `fe80::/10`
#[inline(always)]
pub fn is_link_local(address: &Addr) -> bool {
    u32::from_be(address.0[0]) >> 22 == 0xfe80 >> 6
}

/// Whether this ICMPv6 packet is link housekeeping between a pod and the node: neighbour discovery
/// (RFC 4861) that no router has touched, or multicast listener discovery (RFC 3810). `Some(false)`: it
/// is the kind of housekeeping that only a router does, and a pod is none.
#[inline(always)]
pub fn housekeeping(flow: Current) -> u8 {
    if flow.kind != Kind::V6 || flow.key.proto != proto::ICMPV6 {
        return NOT_HOUSEKEEPING;
    }
    let stays = is_link_local(&flow.key.dst)
        || u32::from_be(flow.key.dst.0[0]) >> 16 == 0xff02
        || flow.dst.flags & ipcache_flags::LOCAL_NODE != 0
        || flow.hook as u8 == Hook::ToPod as u8;
    match flow.icmp_type {
        icmp_type::V6_ROUTER_SOLICITATION
        | icmp_type::V6_NEIGHBOUR_SOLICITATION
        | icmp_type::V6_NEIGHBOUR_ADVERTISEMENT
            if stays && flow.hop_limit == UNROUTED =>
        {
            HOUSEKEEPING
        }
        icmp_type::V6_LISTENER_QUERY..=icmp_type::V6_LISTENER_DONE | icmp_type::V6_LISTENER_REPORT_2
            if stays && flow.hop_limit == 1 =>
        {
            HOUSEKEEPING
        }
        icmp_type::V6_ROUTER_ADVERTISEMENT | icmp_type::V6_REDIRECT => ROUTER_ONLY,
        _ => NOT_HOUSEKEEPING,
    }
}

pub const NOT_HOUSEKEEPING: u8 = 0;
pub const HOUSEKEEPING: u8 = 1;
pub const ROUTER_ONLY: u8 = 2;
