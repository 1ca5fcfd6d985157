//! cgroup/connect4 and connect6: a TCP connection, or a UDP socket that is connected, to a service goes
//! to one of its backends.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::service::{ALLOW, Call, REFUSE, SocketAddr, Translation, translate};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    match translate(ctx, SocketAddr::read_v4(ctx), Call::Connect) {
        Translation::Keep => ALLOW,
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v4(ctx);
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    match translate(ctx, SocketAddr::read_v6(ctx), Call::Connect) {
        Translation::Keep => ALLOW,
        Translation::Refuse => REFUSE,
        Translation::To(backend) => {
            backend.write_v6(ctx);
            ALLOW
        }
    }
}
