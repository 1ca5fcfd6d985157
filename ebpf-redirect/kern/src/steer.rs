//! Giving a packet to a socket of the proxy. The proxy's sockets are in this network namespace and bear
//! addresses that are not the node's, so the packet also gets the mark that routes it locally.
//!
//! Needs `sk_assign` at tc ingress (Linux 5.7; for listeners of a SO_REUSEPORT group 6.6).

use abi::{DropReason, ListenerSlot, PORT_INGRESS, ipcache_flags, mark};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_tuple},
    helpers::generated as helpers,
};

use crate::{
    flow::{Current, FAILED, Hook, Kind},
    maps::LISTENERS,
    skb,
};

/// States of a TCP socket (`net/tcp_states.h`).
pub mod state {
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const TIME_WAIT: u32 = 6;
    pub const CLOSE: u32 = 7;
    pub const LAST_ACK: u32 = 9;
    pub const LISTEN: u32 = 10;
    pub const CLOSING: u32 = 11;
}

/// `BPF_F_CURRENT_NETNS`.
const THIS_NETNS: u64 = u64::MAX;

/// What [`to_socket`] found.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// A socket that has yet to send its FIN.
    Open,
    /// A socket that has closed its side.
    Closing,
}

/// Which end of a tuple the socket that is looked for has.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Destination,
    Source,
}

/// The socket that is exactly this connection's, with a reference, or null; listeners do not count,
/// for they may be anybody's.
#[inline(always)]
unsafe fn lookup(skb: *mut __sk_buff, mut flow: Current, owner: Owner, inner: bool) -> *mut bpf_sock {
    let key = if inner { flow.other } else { flow.key };
    let (src, dst, sport, dport) = match owner {
        Owner::Destination => (key.src, key.dst, key.sport, key.dport),
        Owner::Source => (key.dst, key.src, key.dport, key.sport),
    };
    let ports = u32::from_ne_bytes([
        sport.to_ne_bytes()[0],
        sport.to_ne_bytes()[1],
        dport.to_ne_bytes()[0],
        dport.to_ne_bytes()[1],
    ]);
    let size = if flow.kind == Kind::V6 {
        flow.tuple = [src.0[0], src.0[1], src.0[2], src.0[3], dst.0[0], dst.0[1], dst.0[2], dst.0[3], ports];
        36
    } else {
        flow.tuple[0] = src.0[3];
        flow.tuple[1] = dst.0[3];
        flow.tuple[2] = ports;
        12
    };
    let tuple = flow.tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
    unsafe { helpers::bpf_skc_lookup_tcp(skb.cast(), tuple, size, THIS_NETNS, 0) }
}

#[inline(always)]
unsafe fn state_of(socket: *mut bpf_sock) -> u32 {
    unsafe { core::ptr::read_volatile(&raw const (*socket).state) }
}

#[inline(always)]
unsafe fn release(socket: *mut bpf_sock) {
    unsafe { helpers::bpf_sk_release(socket.cast()) };
}

/// Whether the socket is not the proxy's. Only the proxy has sockets with foreign addresses, but at an
/// address of the node itself any process may have one: there the proxy's mark must be on it.
#[inline(always)]
unsafe fn is_foreign(flow: Current, socket: *mut bpf_sock) -> bool {
    if flow.dst.flags & ipcache_flags::LOCAL_NODE == 0 {
        return false;
    }
    unsafe {
        let full = helpers::bpf_sk_fullsock(socket);
        !full.is_null() && core::ptr::read_volatile(&raw const (*full).mark) & mark::MASK != mark::UPSTREAM
    }
}

/// Gives the packet to `socket`; consumes the reference.
#[inline(always)]
unsafe fn assign(skb: *mut __sk_buff, socket: *mut bpf_sock) -> Result<(), DropReason> {
    skb::set_mark(skb, mark::TO_PROXY);
    let failed = unsafe { helpers::bpf_sk_assign(skb.cast(), socket.cast(), 0) };
    unsafe { release(socket) };
    if failed != 0 { Err(DropReason::SocketAssign) } else { Ok(()) }
}

/// Gives the packet to the proxy's socket that has its very tuple, if there is one (TIME_WAIT and
/// half-open ones included). The result is a [`Found`], or [`DropReason::SocketAssign`] if the kernel
/// refuses: one number, because a function of the kernel's machine returns nothing wider.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn to_socket(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return DropReason::SocketAssign as u32 };
    unsafe {
        let socket = lookup(skb, flow, Owner::Destination, false);
        if socket.is_null() {
            return Found::Nothing as u32;
        }
        let state = state_of(socket);
        if state == state::LISTEN || is_foreign(flow, socket) {
            release(socket);
            return Found::Nothing as u32;
        }
        match assign(skb, socket) {
            Err(reason) => reason as u32,
            Ok(()) => match state {
                state::FIN_WAIT1
                | state::FIN_WAIT2
                | state::TIME_WAIT
                | state::CLOSE
                | state::LAST_ACK
                | state::CLOSING => Found::Closing as u32,
                _ => Found::Open as u32,
            },
        }
    }
}

/// The listener that takes what this packet's connection brings.
#[inline(always)]
pub fn slot(ingress: bool, kind: Kind) -> u32 {
    let slot = match (ingress, kind) {
        (false, Kind::V6) => ListenerSlot::EgressV6,
        (false, _) => ListenerSlot::EgressV4,
        (true, Kind::V6) => ListenerSlot::IngressV6,
        (true, _) => ListenerSlot::IngressV4,
    };
    slot as u32
}

/// Gives the packet to the proxy's listener: a SYN, the ACK of a SYN cookie, or a stray, which its stack
/// answers with RST.
///
/// # Errors
/// [`DropReason::ProxyUnavailable`] without a listener, [`DropReason::SocketAssign`] if the kernel refuses.
#[inline(always)]
pub fn to_listener(skb: *mut __sk_buff, flow: Current, slot: u32) -> Result<(), DropReason> {
    flow.outcome(give_to_listener(skb, slot))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn give_to_listener(skb: *mut __sk_buff, slot: u32) -> u32 {
    let Some(flow) = Current::fetch() else { return FAILED };
    flow.code(assign_listener(skb, slot))
}

#[inline(always)]
fn assign_listener(skb: *mut __sk_buff, slot: u32) -> Result<(), DropReason> {
    unsafe {
        let socket: *mut bpf_sock =
            helpers::bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), (&raw const slot).cast())
                .cast();
        if socket.is_null() {
            return Err(DropReason::ProxyUnavailable);
        }
        assign(skb, socket)
    }
}

/// Whether the proxy has a live upstream socket of the very tuple that the pod in hand wants to use.
#[inline(always)]
pub fn collides(skb: *mut __sk_buff) -> bool {
    upstream_collides(skb) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn upstream_collides(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return 1 };
    unsafe {
        let socket = lookup(skb, flow, Owner::Source, false);
        if socket.is_null() {
            return 0;
        }
        let state = state_of(socket);
        release(socket);
        (state != state::LISTEN && state != state::TIME_WAIT) as u32
    }
}

/// Whether the packet in hand, to an address of the node, is a reply to an upstream socket that the proxy
/// bound to that address (the way out when a backend is its own client, and for the world).
#[inline(always)]
pub fn is_upstream_of_node(skb: *mut __sk_buff) -> bool {
    upstream_of_node(skb) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn upstream_of_node(skb: *mut __sk_buff) -> u32 {
    let Some(flow) = Current::fetch() else { return 0 };
    unsafe {
        let socket = lookup(skb, flow, Owner::Destination, false);
        if socket.is_null() {
            return 0;
        }
        let ours = state_of(socket) != state::LISTEN && !is_foreign(flow, socket);
        release(socket);
        ours as u32
    }
}

/// Whether the proxy has the socket whose own packet (tuple in `flow.other`) an ICMP error is about.
#[inline(always)]
pub fn sent_by_proxy(skb: *mut __sk_buff, flow: Current) -> bool {
    unsafe {
        let socket = lookup(skb, flow, Owner::Source, true);
        if socket.is_null() {
            return false;
        }
        let state = state_of(socket);
        release(socket);
        state != state::LISTEN
    }
}

/// The listener slot for a reply to the proxy whose socket is gone.
#[inline(always)]
pub fn slot_of_reply(flow: Current) -> u32 {
    let port = u16::from_be(flow.key.dport);
    let ingress = port >= PORT_INGRESS.0 && port <= PORT_INGRESS.1;
    slot(ingress, flow.kind)
}

/// The listener slot for a connection that is opened at this hook.
#[inline(always)]
pub fn slot_of_client(flow: Current) -> u32 {
    slot(flow.hook as u8 == Hook::FromNetdev as u8, flow.kind)
}
