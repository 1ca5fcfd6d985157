//! tcx egress at the host's end of each pod's veth: the gate. It lets in what another program has decided
//! (by mark), the proxy's packets, replies to the pod and what the node itself may send; anything
//! else was decided by nobody. A packet cannot be given to a socket here.

use abi::{Config, ConnEntry, DropReason, Verdict, conn_flags, ipcache_flags, mark};
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    conn,
    decide::{self, Opener},
    event,
    flow::{self, Current, Hook, Kind, tcp},
    icmp,
    maps::ENDPOINTS,
    parse, path, skb,
};

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let mark = skb::mark_of(skb);
    if (mark == mark::DIRECT || mark == mark::UPSTREAM) && flow::config().is_ok() {
        return skb::NEXT;
    }
    let Some(flow) = Current::begin(skb, Hook::ToPod) else { return skb::SHOT };
    match admit(skb, flow) {
        Ok(()) => skb::NEXT,
        Err(reason) => event::dropped(flow, reason),
    }
}

#[inline(always)]
fn admit(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    let config = flow::config()?;
    let Some(endpoint) = ENDPOINTS.get_ptr(skb::ifindex(skb)) else {
        return Err(DropReason::UnknownEndpoint);
    };
    let endpoint = unsafe { &*endpoint };
    flow.dst.endpoint = endpoint.id;
    parse::network(skb, flow)?;
    flow.dst.identity = flow.identity_of(endpoint);
    if flow.kind == Kind::Arp {
        return Ok(());
    }
    decide::find_source(flow);
    parse::transport(skb, flow)?;
    if icmp::housekeeping(flow) == icmp::HOUSEKEEPING {
        return Ok(());
    }
    if icmp::is_error(flow) && icmp::related(skb).is_some() {
        return Ok(());
    }
    let syn = flow.is_syn();
    flow.reverse();
    if !syn
        && !flow.is_echo()
        && let Some(entry) = conn::find(&flow.other, flow.now_ns)
    {
        return known(flow, entry, config, Opener::Receiver);
    }
    if flow.src.flags & ipcache_flags::LOCAL_NODE == 0 {
        return Err(DropReason::NotDecided);
    }
    if !syn
        && !flow.is_echo_reply()
        && let Some(entry) = conn::find(&flow.key, flow.now_ns)
        && entry.flags & conn_flags::FROM_NODE != 0
    {
        return known(flow, entry, config, Opener::Sender);
    }
    from_node(flow, config)
}

#[inline(always)]
fn known(flow: Current, entry: &mut ConnEntry, config: &Config, opener: Opener) -> Result<(), DropReason> {
    if entry.revision != config.revision {
        path::revalidate(flow, entry, config.revision, opener)?;
    }
    // The life of a redirected connection is read off its client's packets.
    if entry.flags & conn_flags::REDIRECTED == 0 {
        conn::refresh(flow, entry, opener);
    }
    Ok(())
}

/// A new connection of the node's own processes. They cannot be given to the proxy from here.
#[inline(always)]
fn from_node(flow: Current, config: &Config) -> Result<(), DropReason> {
    decide::decide(flow, Opener::Sender);
    match flow.verdict {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Redirect { .. } => Err(DropReason::ProxyUnavailable),
        Verdict::Allow if flow.tcp_flags & tcp::RST != 0 || flow.is_icmp() && !flow.is_echo() => Ok(()),
        Verdict::Allow => path::open_direct(flow, config.revision, conn_flags::FROM_NODE),
    }
}
