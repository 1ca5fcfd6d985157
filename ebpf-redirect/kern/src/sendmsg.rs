//! cgroup/sendmsg4 and sendmsg6: a datagram that an unconnected UDP socket sends to a service goes to the
//! backend of that socket.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::service::{ALLOW, Call, REFUSE, SocketAddr, Translation, translate};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    match translate(ctx, SocketAddr::read_v4(ctx), Call::Send) {
        Translation::Keep => ALLOW,
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v4(ctx);
            ALLOW
        }
    }
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    match translate(ctx, SocketAddr::read_v6(ctx), Call::Send) {
        Translation::Keep => ALLOW,
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v6(ctx);
            ALLOW
        }
    }
}
