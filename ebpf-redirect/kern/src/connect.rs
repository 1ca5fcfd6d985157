//! cgroup/connect4 and connect6: a TCP connection, or a UDP socket that is connected, to a service goes
//! to one of its backends.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated as helpers, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

use crate::{
    flow, node,
    service::{ALLOW, Call, REFUSE, SocketAddr, Translation, translate},
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let asked = SocketAddr::read_v4(ctx);
    match translate(ctx, asked, Call::Connect) {
        Translation::Keep => police(ctx, &asked),
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v4(ctx);
            police(ctx, &backend)
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let asked = SocketAddr::read_v6(ctx);
    match translate(ctx, asked, Call::Connect) {
        Translation::Keep => police(ctx, &asked),
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v6(ctx);
            police(ctx, &backend)
        }
    }
}

/// The node's own processes reach pods by a way of their own if policy says so.
#[inline(always)]
fn police(ctx: *mut bpf_sock_addr, to: &SocketAddr) -> i32 {
    if let Ok(config) = flow::config()
        && unsafe { helpers::bpf_get_netns_cookie(ctx.cast()) } == config.node_netns_cookie
    {
        node::mark_socket(ctx, to, config);
    }
    ALLOW
}
