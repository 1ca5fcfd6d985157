//! cgroup/getpeername4 and getpeername6: a translated socket still has the service as its peer.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::service::{ALLOW, SocketAddr, translated_from};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    if let Some(vip) = translated_from(ctx, SocketAddr::read_v4(ctx)) {
        vip.write_v4(ctx);
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    if let Some(vip) = translated_from(ctx, SocketAddr::read_v6(ctx)) {
        vip.write_v6(ctx);
    }
    ALLOW
}
