//! tcx ingress at each of the node's devices: packets from elsewhere to pods of this node. The node's own
//! traffic passes untouched; whatever passes without a mark meets the gate before a pod.

use abi::{DropReason, ipcache_flags, mark};
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    decide, event,
    flow::{self, Current, Hook, Kind},
    parse, path, skb,
};

#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(flow) = Current::begin(skb, Hook::FromNetdev) else { return skb::NEXT };
    match admit(skb, flow) {
        Ok(()) => {
            // Through the stack: connection tracking must see both directions of what may be masqueraded.
            if flow.direct {
                skb::set_mark(skb, mark::DIRECT);
            }
            skb::NEXT
        }
        Err(reason) => event::dropped(flow, reason),
    }
}

#[inline(always)]
fn admit(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    // Not for us to judge: without a mark it cannot reach a pod.
    let Ok(config) = flow::config() else { return Ok(()) };
    let network = parse::network(skb, flow);
    if network.is_ok() && flow.kind == Kind::Arp {
        return Ok(());
    }
    decide::find_destination(flow);
    if flow.dst.flags & ipcache_flags::SERVICE_VIP != 0 {
        return Err(DropReason::NoService);
    }
    if flow.dst.endpoint == 0 {
        return Ok(());
    }
    network?;
    decide::find_source(flow);
    // An address that lives on this node does not arrive from outside.
    if flow.src.endpoint != 0
        || flow.src.flags & (ipcache_flags::LOCAL_NODE | ipcache_flags::SERVICE_VIP) != 0
    {
        return Err(DropReason::InvalidSourceIp);
    }
    parse::transport(skb, flow)?;
    path::decide(skb, flow, config)
}
