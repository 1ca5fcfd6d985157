//! tcx egress at the host's end of each pod's veth: the gate. It lets in what another program has decided
//! (by mark), the proxy's packets, replies to the pod and what the node itself may send; anything
//! else was decided by nobody. A packet cannot be given to a socket here.

use abi::{Config, ConnEntry, DropReason, Verdict, conn_flags, ipcache_flags, mark};
use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    conn,
    decide::{self, Opener},
    endpoint, event,
    flow::{self, Current, Hook, Kind, tcp},
    icmp,
    parse::{self, ipv4, ipv6},
    path,
    revalidate::{Renewed, revalidate},
    skb,
};

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let mark = skb::mark_of(skb);
    if (mark == mark::DIRECT || mark == mark::UPSTREAM) && flow::config().is_ok() {
        if mark == mark::UPSTREAM && is_reset(skb) {
            note_reset(skb);
        }
        return skb::NEXT;
    }
    let Some(flow) = Current::begin(skb, Hook::ToPod) else { return skb::SHOT };
    match admit(skb, flow) {
        Ok(()) => skb::NEXT,
        Err(reason) => event::dropped(flow, reason),
    }
}

/// Whether a packet of the proxy is a RST. Its stack writes no IP options and no extension headers.
#[inline(always)]
fn is_reset(skb: *mut __sk_buff) -> bool {
    const FLAGS: u32 = 13;
    let header =
        if skb::protocol(skb) == parse::ETH_P_IPV6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
    matches!(skb::load::<u8>(skb, skb::ETHERNET_BYTES + header + FLAGS), Ok(flags) if flags & tcp::RST != 0)
}

/// The proxy resets a connection: its entry has no more to wait for than a forged RST would leave it.
#[inline(always)]
fn note_reset(skb: *mut __sk_buff) {
    let Some(mut flow) = Current::begin(skb, Hook::ToPod) else { return };
    if parse::network(skb, flow).is_err() || parse::transport(skb, flow).is_err() {
        return;
    }
    flow.reverse();
    if let Some(entry) = conn::find(&flow.other, flow.now_ns)
        && entry.flags & conn_flags::REDIRECTED != 0
    {
        conn::refresh(flow, entry, Opener::Receiver);
    }
}

#[inline(always)]
fn admit(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    let (config, _) = endpoint::at_veth(skb, flow, Hook::ToPod)?;
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
        let handled = known(flow, entry, config, Opener::Receiver)?;
        if handled {
            return Ok(());
        }
    }
    if flow.src.flags & ipcache_flags::LOCAL_NODE == 0 {
        return Err(DropReason::NotDecided);
    }
    if !syn
        && !flow.is_echo_reply()
        && let Some(entry) = conn::find(&flow.key, flow.now_ns)
        && entry.flags & conn_flags::FROM_NODE != 0
    {
        let handled = known(flow, entry, config, Opener::Sender)?;
        if handled {
            return Ok(());
        }
    }
    from_node(flow, config)
}

/// A packet of a connection in the map. `false`: it is none of that connection after all.
#[inline(always)]
fn known(flow: Current, entry: &mut ConnEntry, config: &Config, opener: Opener) -> Result<bool, DropReason> {
    if entry.revision != config.revision
        && revalidate(flow, entry, config.revision, opener)? == Renewed::Stranger
    {
        return Ok(false);
    }
    // The life of a redirected connection is read off its client's packets.
    if entry.flags & conn_flags::REDIRECTED == 0 {
        conn::refresh(flow, entry, opener);
    }
    Ok(true)
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
