//! cgroup/recvmsg4 and recvmsg6: a datagram from a backend appears to come from the service.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::service::{ALLOW, SocketAddr, translated_from};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    if let Some(vip) = translated_from(ctx, SocketAddr::read_v4(ctx)) {
        vip.write_v4(ctx);
    }
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    if let Some(vip) = translated_from(ctx, SocketAddr::read_v6(ctx)) {
        vip.write_v6(ctx);
    }
    ALLOW
}
