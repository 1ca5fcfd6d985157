//! The way of a parsed packet at the hooks where packets come in (`from_pod`, `from_netdev`): the
//! connection map first, then policy, then the proxy or the direct way.

use abi::{
    Config, ConnEntry, DropReason, EventKind, PORT_RESERVED, Verdict, conn_flags, ipcache_flags, proto,
};
use aya_ebpf::bindings::__sk_buff;

use crate::{
    conn,
    decide::{self, Opener},
    event,
    flow::{Current, Hook, Part, tcp},
    icmp,
    revalidate::{Renewed, revalidate},
    steer::{self, Found},
};

/// Flags of a connection that has got further than its first packet.
const PROGRESS: u32 =
    conn_flags::REPLIED | conn_flags::FIN_FORWARD | conn_flags::FIN_REVERSE | conn_flags::RST;

/// Decides the packet in hand. If it is the proxy's it is marked and has its socket; if it may go on as it
/// is, [`direct`](crate::flow::Flow::direct) says so.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn decide(skb: *mut __sk_buff, mut flow: Current, config: &Config) -> Result<(), DropReason> {
    if flow.is_icmp() && !flow.is_echo() && !flow.is_echo_reply() {
        return icmp::decide(skb, flow);
    }
    let syn = flow.is_syn();
    if flow.key.proto == proto::TCP && !syn && is_reserved(flow.key.dport) && reply_to_proxy(skb, flow)? {
        return Ok(());
    }
    if !syn
        && !flow.is_echo_reply()
        && let Some(entry) = conn::find(&flow.key, flow.now_ns)
    {
        let handled = known(skb, flow, entry, config, Opener::Sender)?;
        if handled {
            return Ok(());
        }
    }
    flow.reverse();
    if !syn
        && !flow.is_echo()
        && let Some(entry) = conn::find(&flow.other, flow.now_ns)
    {
        let handled = known(skb, flow, entry, config, Opener::Receiver)?;
        if handled {
            return Ok(());
        }
    }
    if flow.key.proto == proto::TCP && !syn && flow.part == Part::Whole {
        if is_reserved(flow.key.dport) {
            // A reply to a socket that the proxy no longer has: its stack answers RST.
            return steer::to_listener(skb, flow, steer::slot_of_reply(flow));
        }
        if flow.dst.flags & ipcache_flags::LOCAL_NODE != 0 && steer::is_upstream_of_node(skb) {
            flow.direct = true;
            return Ok(());
        }
    }
    unknown(skb, flow, config, syn)
}

/// Whether a port (network order) is one that only the proxy may use.
#[inline(always)]
pub fn is_reserved(port: u16) -> bool {
    let port = u16::from_be(port);
    port >= PORT_RESERVED.0 && port <= PORT_RESERVED.1
}

/// Hands a reply to the proxy's upstream socket; `false` if there is none.
#[inline(always)]
fn reply_to_proxy(skb: *mut __sk_buff, flow: Current) -> Result<bool, DropReason> {
    if flow.part != Part::Whole {
        return Ok(false);
    }
    let found = steer::to_socket(skb);
    if found > Found::Closing as u32 {
        return Err(DropReason::SocketAssign);
    }
    Ok(found != Found::Nothing as u32)
}

/// A packet of a connection in the map. `false`: it is none of that connection after all.
#[inline(always)]
fn known(
    skb: *mut __sk_buff,
    mut flow: Current,
    entry: &mut ConnEntry,
    config: &Config,
    opener: Opener,
) -> Result<bool, DropReason> {
    let redirected = entry.flags & conn_flags::REDIRECTED != 0;
    if entry.revision != config.revision {
        match revalidate(flow, entry, config.revision, opener)? {
            Renewed::Same => {}
            // What the proxy has for this tuple is not this sender's.
            Renewed::Stranger if !redirected => return Ok(false),
            Renewed::Strict | Renewed::Stranger => return to_listener_as_stray(skb, flow).map(|()| true),
        }
    }
    if !redirected {
        conn::refresh(flow, entry, opener);
        flow.direct = true;
        return Ok(true);
    }
    if flow.part != Part::Whole {
        return Err(DropReason::FragmentRedirect);
    }
    if opener as u8 == Opener::Receiver as u8 {
        // The other end never meets the proxy on this tuple: what it sends is left over from before.
        return to_listener_as_stray(skb, flow).map(|()| true);
    }
    let seen = match steer::to_socket(skb) {
        found if found == Found::Nothing as u32 => {
            let slot = steer::slot(entry.flags & conn_flags::INGRESS != 0, flow.kind);
            return steer::to_listener(skb, flow, slot).map(|()| true);
        }
        found if found == Found::Open as u32 => 0,
        found if found == Found::Closing as u32 => conn_flags::FIN_REVERSE,
        _ => return Err(DropReason::SocketAssign),
    };
    refresh_redirected(flow, entry, seen);
    Ok(true)
}

/// Refreshes a connection that the proxy answers: its replies leave by a socket, not through here, so
/// what the other side has done is read off the socket's state.
#[inline(always)]
fn refresh_redirected(flow: Current, entry: &mut ConnEntry, seen: u32) {
    let mut flags = entry.flags | conn_flags::REPLIED | conn_flags::ASSURED | seen;
    if flow.tcp_flags & tcp::FIN != 0 {
        flags |= conn_flags::FIN_FORWARD;
    }
    if flow.tcp_flags & tcp::RST != 0 {
        flags |= conn_flags::RST;
    }
    conn::renew(flow, entry, flags);
}

#[inline(always)]
fn to_listener_as_stray(skb: *mut __sk_buff, flow: Current) -> Result<(), DropReason> {
    if flow.part != Part::Whole {
        return Err(DropReason::FragmentRedirect);
    }
    steer::to_listener(skb, flow, steer::slot_of_client(flow))
}

/// A packet of no live connection: a new one, or one that a lost map has forgotten.
#[inline(always)]
fn unknown(skb: *mut __sk_buff, mut flow: Current, config: &Config, syn: bool) -> Result<(), DropReason> {
    decide::decide(flow, Opener::Sender);
    match flow.verdict {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Allow => {
            if syn && is_reserved(flow.key.sport) && steer::collides(skb) {
                return Err(DropReason::PortCollision);
            }
            open_direct(flow, config.revision, 0)?;
            flow.direct = true;
            Ok(())
        }
        Verdict::Redirect { .. } => {
            if flow.part != Part::Whole {
                return Err(DropReason::FragmentRedirect);
            }
            open_redirected(skb, flow, config.revision, syn)
        }
    }
}

/// Enters a direct connection, with `flags` of its own.
#[inline(always)]
pub fn open_direct(flow: Current, revision: u32, flags: u32) -> Result<(), DropReason> {
    // What ends or never was a connection needs no entry: a RST, a reply to an unknown ping.
    if flow.tcp_flags & tcp::RST != 0 || flow.is_echo_reply() {
        return Ok(());
    }
    let again = is_retransmission(flow, revision);
    conn::open(flow, revision, flags)?;
    if !again {
        event::count(abi::Counter::NewDirect);
        event::emit(flow, EventKind::New, 0);
    }
    Ok(())
}

/// Whether this SYN was already let through: it opens its connection again, without another event.
#[inline(always)]
fn is_retransmission(flow: Current, revision: u32) -> bool {
    match conn::find(&flow.key, flow.now_ns) {
        Some(entry) => entry.revision == revision && entry.flags & PROGRESS == 0,
        None => false,
    }
}

/// Gives a new connection to the proxy, and enters it: the proxy trusts nothing else.
#[inline(always)]
fn open_redirected(skb: *mut __sk_buff, flow: Current, revision: u32, syn: bool) -> Result<(), DropReason> {
    let mut flags = conn_flags::REDIRECTED;
    if flow.vip {
        flags |= conn_flags::VIP;
    }
    if flow.hook as u8 == Hook::FromNetdev as u8 {
        flags |= conn_flags::INGRESS;
    }
    match steer::to_socket(skb) {
        found if found == Found::Nothing as u32 => {
            steer::to_listener(skb, flow, steer::slot_of_client(flow))?;
            // A stray gets its RST and leaves no trace.
            if !syn {
                return Ok(());
            }
        }
        found if found <= Found::Closing as u32 => {
            if !syn {
                flags |= conn_flags::REPLIED | conn_flags::ASSURED;
            }
        }
        _ => return Err(DropReason::SocketAssign),
    }
    let again = is_retransmission(flow, revision);
    conn::open(flow, revision, flags)?;
    if !again {
        event::count(abi::Counter::NewRedirected);
        event::emit(flow, EventKind::Redirect, 0);
    }
    Ok(())
}
