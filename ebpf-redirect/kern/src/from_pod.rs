//! tcx ingress at the host's end of each pod's veth: everything that a pod sends.

use abi::{Addr, Config, DropReason, EndpointEntry, ipcache_flags, proto};
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    decide, endpoint, event,
    flow::{self, Current, Hook, Kind},
    icmp, parse, path, skb,
};

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(flow) = Current::begin(skb, Hook::FromPod) else { return skb::SHOT };
    match admit(skb, flow) {
        Ok(()) if flow.direct => endpoint::deliver(skb, flow),
        Ok(()) => skb::NEXT,
        Err(reason) => event::dropped(flow, reason),
    }
}

#[inline(always)]
fn admit(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    let (config, endpoint) = endpoint::at_veth(skb, flow, Hook::FromPod)?;
    if flow.kind == Kind::Arp {
        return arp(skb, endpoint);
    }
    let own = if flow.kind == Kind::V6 { &endpoint.ipv6 } else { &endpoint.ipv4 };
    let spoofed = !flow::same(&flow.key.src, own);
    if spoofed && !may_be_housekeeping(flow) {
        return Err(DropReason::InvalidSourceIp);
    }
    decide::find_destination(flow);
    parse::transport(skb, flow)?;
    match icmp::housekeeping(flow) {
        icmp::HOUSEKEEPING => return Ok(()),
        icmp::ROUTER_ONLY => return Err(DropReason::InvalidPacket),
        _ => {}
    }
    if spoofed {
        return Err(DropReason::InvalidSourceIp);
    }
    if reaches_tunnel(flow, config) {
        return Err(DropReason::TunnelPort);
    }
    path::decide(skb, flow, config)
}

/// A pod may speak for its own address only; 0.0.0.0 is a probe for duplicates (RFC 5227).
#[inline(always)]
fn arp(skb: *mut __sk_buff, endpoint: &EndpointEntry) -> Result<(), DropReason> {
    const SENDER_ADDRESS: u32 = skb::ETHERNET_BYTES + 14;
    let [high, low] = skb::load::<[u16; 2]>(skb, SENDER_ADDRESS)?;
    let [a, b] = high.to_ne_bytes();
    let [c, d] = low.to_ne_bytes();
    let sender = u32::from_ne_bytes([a, b, c, d]);
    if sender == 0 || sender == endpoint.ipv4.0[3] { Ok(()) } else { Err(DropReason::InvalidSourceIp) }
}

/// Link-local and unspecified sources are for neighbour discovery and its like alone.
#[inline(always)]
fn may_be_housekeeping(flow: Current) -> bool {
    flow.kind == Kind::V6
        && flow.key.proto == proto::ICMPV6
        && (icmp::is_link_local(&flow.key.src) || flow::same(&flow.key.src, &Addr([0; 4])))
}

/// Masqueraded, a pod's packet to another node's tunnel port would pass for its node's own.
#[inline(always)]
fn reaches_tunnel(flow: Current, config: &Config) -> bool {
    config.tunnel_port != 0
        && flow.key.proto == proto::UDP
        && u16::from_be(flow.key.dport) as u32 == config.tunnel_port
        && flow.dst.flags & ipcache_flags::POD == 0
}
