//! The node's own processes under `--allow-localhost policy`: which of their connections the proxy must take
//! is found out at connect(2), and said by a mark on the socket. The mark only chooses the way; program
//! `from_node` decides, and what comes to a pod without it is stopped by the gate.

use abi::{Config, Direction, IpcacheEntry, IpcacheKey, Verdict, config_flags, ipcache_flags, mark, proto};
use aya_ebpf::{bindings::bpf_sock_addr, helpers::generated as helpers};
use core::ptr;

use crate::{decide, maps::IPCACHE, service::SocketAddr};

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Marks the socket of a node process that connects to `to`, or takes an earlier mark of ours away.
#[inline(always)]
pub fn mark_socket(ctx: *mut bpf_sock_addr, to: &SocketAddr, config: &Config) {
    if config.flags & config_flags::POLICE_NODE == 0 {
        return;
    }
    let socket = unsafe { ptr::read_volatile(&raw const (*ctx).__bindgen_anon_1.sk) };
    if socket.is_null() {
        return;
    }
    let old = unsafe { ptr::read_volatile(&raw const (*socket).mark) };
    let ours = old & mark::MASK;
    // The proxy's own sockets have theirs.
    if ours != 0 && ours != mark::NODE {
        return;
    }
    let protocol = unsafe { ptr::read_volatile(&raw const (*ctx).protocol) } as u8;
    let wanted = if protocol == proto::TCP && needs_proxy(to) { mark::NODE } else { 0 };
    if ours != wanted {
        let mut new = old & !mark::MASK | wanted;
        // If it fails the packets come to the gate, which drops them.
        unsafe {
            helpers::bpf_setsockopt(ctx.cast(), SOL_SOCKET, SO_MARK, (&raw mut new).cast(), 4);
        }
    }
}

/// Whether the policy of a pod of this node sends its connections from the node to the proxy. On the stack and
/// not in a [`Flow`](crate::flow::Flow): packets of this CPU interrupt a process.
#[inline(always)]
fn needs_proxy(to: &SocketAddr) -> bool {
    let key = IpcacheKey { prefix_len: 128, addr: to.addr };
    let found = unsafe {
        helpers::bpf_map_lookup_elem((&raw const IPCACHE).cast_mut().cast(), (&raw const key).cast())
    };
    if found.is_null() {
        return false;
    }
    let peer = unsafe { *found.cast::<IpcacheEntry>() };
    if peer.endpoint == 0 || peer.flags & ipcache_flags::POD == 0 {
        return false;
    }
    let port = u16::from_be(to.port);
    let decision = decide::ask(peer.endpoint, abi::IDENTITY_HOST, Direction::Ingress, proto::TCP, port);
    matches!(decision.verdict, Verdict::Redirect { .. })
}
