//! tcx ingress at the loopback device, under `--allow-localhost policy`: what the node's own processes send to
//! its pods through the proxy. The connect hook has marked their sockets; anything else passes untouched.

use abi::{DropReason, ipcache_flags, mark};
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    decide, event,
    flow::{self, Current, Hook},
    parse, path, skb,
};

#[classifier]
pub fn from_node(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if skb::mark_of(skb) != mark::NODE {
        return skb::NEXT;
    }
    let Some(flow) = Current::begin(skb, Hook::FromNode) else { return skb::SHOT };
    match admit(skb, flow) {
        Ok(()) => skb::NEXT,
        Err(reason) => event::dropped(flow, reason),
    }
}

#[inline(always)]
fn admit(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    let config = flow::config()?;
    parse::network(skb, flow)?;
    decide::find_source(flow);
    decide::find_destination(flow);
    if flow.src.flags & ipcache_flags::LOCAL_NODE == 0 || flow.dst.endpoint == 0 {
        return Err(DropReason::NotDecided);
    }
    parse::transport(skb, flow)?;
    path::decide(skb, flow, config)?;
    // Policy has changed since the connect hook looked. There is no way on from here to the pod, and a
    // listener of the node must not take it.
    if flow.direct { Err(DropReason::NotDecided) } else { Ok(()) }
}
