//! The pods of this node: whose veth a program runs at, and the short way into another pod.

use abi::{Config, DropReason, EndpointEntry, mark};
use aya_ebpf::{bindings::__sk_buff, helpers::generated as helpers};

use crate::{
    flow::{self, Current, Hook, Kind, Part},
    maps::{ENDPOINTS, VETHS},
    parse::{self, ipv4, ipv6},
    skb::{self, ETHERNET_BYTES},
};

/// Frames up to this size are never too long for a pod's link (RFC 8200 section 5, and the Ethernet header).
const FRAME_ALWAYS: u32 = 1280 + ETHERNET_BYTES;
/// `BPF_MTU_CHK_SEGS`
const CHECK_SEGMENTS: u64 = 1;
/// `BPF_F_RECOMPUTE_CSUM`
const RECOMPUTE_CHECKSUM: u64 = 1;
/// [`to_peer`] has changed nothing.
const NOT_TAKEN: u32 = 0;

/// What both programs at a veth do first: they find the settings and the endpoint behind the veth, read the
/// packet's network header, and enter the endpoint as source (`hook` is `FromPod`) or as destination.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn at_veth(
    skb: *mut __sk_buff,
    mut flow: Current,
    hook: Hook,
) -> Result<(&'static Config, &'static EndpointEntry), DropReason> {
    let config = flow::config()?;
    let Some(endpoint) = ENDPOINTS.get_ptr(skb::ifindex(skb)) else {
        return Err(DropReason::UnknownEndpoint);
    };
    let endpoint = unsafe { &*endpoint };
    if hook as u8 == Hook::FromPod as u8 {
        flow.src.endpoint = endpoint.id;
    } else {
        flow.dst.endpoint = endpoint.id;
    }
    parse::network(skb, flow)?;
    let identity = flow.identity_of(endpoint);
    if hook as u8 == Hook::FromPod as u8 {
        flow.src.identity = identity;
    } else {
        flow.dst.identity = identity;
    }
    Ok((config, endpoint))
}

/// Sends an allowed packet on: straight into the pod that it is for, past routing, netfilter and the gate,
/// or marked through the node's stack. What is not an everyday packet takes the stack, which knows what a
/// router owes its sender: expired hop limits, packets too long, IP options, fragments.
#[inline(always)]
pub fn deliver(skb: *mut __sk_buff, flow: Current) -> i32 {
    if flow.dst.endpoint != 0 {
        let code = to_peer(skb);
        if code != NOT_TAKEN {
            return code as i32;
        }
    }
    skb::set_mark(skb, mark::DIRECT);
    skb::NEXT
}

/// The return code of the program, or [`NOT_TAKEN`]. The packet has no mark: the pod's namespace would see it.
///
/// A device that is gone or down drops the packet (`skb_do_redirect`); it cannot be another pod's, for the
/// kernel counts its indexes up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn to_peer(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return NOT_TAKEN };
    let Some(veth) = VETHS.get_ptr(&flow.dst.endpoint) else { return NOT_TAKEN };
    let veth = unsafe { &*veth };
    let plain = if flow.kind == Kind::V6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
    // A frame to another hardware address would not be forwarded either; one to its sender goes out and back.
    if flow.part != Part::Whole
        || flow.l4 != ETHERNET_BYTES + plain
        || flow.hop_limit <= 1
        || !skb::is_for_host(skb)
        || veth.ifindex == skb::ifindex(skb)
        || !fits(skb, veth.ifindex)
    {
        return NOT_TAKEN;
    }
    let m = veth.mac;
    let mac = [
        u16::from_ne_bytes([m[0], m[1]]),
        u16::from_ne_bytes([m[2], m[3]]),
        u16::from_ne_bytes([m[4], m[5]]),
    ];
    let routed = if flow.kind == Kind::V6 { route_v6(skb, mac) } else { route_v4(skb, mac) };
    if routed.is_err() {
        return NOT_TAKEN;
    }
    unsafe { helpers::bpf_redirect_peer(veth.ifindex, 0) as u32 }
}

/// Whether the link takes a frame of this length (or, cut into segments, each of them).
#[inline(always)]
fn fits(skb: *mut __sk_buff, ifindex: u32) -> bool {
    if skb::length(skb) <= FRAME_ALWAYS {
        return true;
    }
    let mut mtu = 0;
    unsafe { helpers::bpf_check_mtu(skb.cast(), ifindex, &raw mut mtu, 0, CHECK_SEGMENTS) == 0 }
}

/// What a router does to a frame: new hardware addresses (from the one that it was sent to), one hop less.
/// The checksum changes with the hop limit (RFC 1141), so the sum over the packet does not.
#[inline(always)]
fn route_v4(skb: *mut __sk_buff, mac: [u16; 3]) -> Result<(), DropReason> {
    // Up to the checksum of the IP header.
    let mut head = skb::load::<[u16; 13]>(skb, 0)?;
    [head[3], head[4], head[5]] = [head[0], head[1], head[2]];
    [head[0], head[1], head[2]] = mac;
    let [hops, proto] = head[11].to_ne_bytes();
    head[11] = u16::from_ne_bytes([hops - 1, proto]);
    let sum = head[12] as u32 + 0x0100_u16.to_be() as u32;
    head[12] = (sum + (sum >= 0xffff) as u32) as u16;
    skb::store(skb, 0, &head, 0)
}

/// The same for IPv6, which has no checksum of its own: a sum over the packet (`CHECKSUM_COMPLETE`) changes.
#[inline(always)]
fn route_v6(skb: *mut __sk_buff, mac: [u16; 3]) -> Result<(), DropReason> {
    const HOP_LIMIT: u32 = ETHERNET_BYTES + 7;
    let hops = skb::load::<u8>(skb, HOP_LIMIT)?;
    let old = skb::load::<[u16; 3]>(skb, 0)?;
    skb::store(skb, HOP_LIMIT, &(hops - 1), RECOMPUTE_CHECKSUM)?;
    // Nothing fails behind this: the header is writable now.
    skb::store(skb, 0, &[mac[0], mac[1], mac[2], old[0], old[1], old[2]], 0)
}
