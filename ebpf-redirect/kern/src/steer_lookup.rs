//! sk_lookup in the node's network namespace: the SYN that meets the proxy's TIME_WAIT socket. The kernel
//! then looks for a listener by address, and the proxy's listener does not have that address.

use abi::{Addr, ConnKey, conn_flags, proto};
use aya_ebpf::{helpers::generated as helpers, macros::sk_lookup, programs::SkLookupContext};
use core::ptr;

use crate::{conn, flow::Kind, maps::LISTENERS, steer};

/// `SK_PASS`: also when no socket was chosen; the kernel's own lookup goes on.
const PASS: u32 = 1;
const AF_INET: u32 = 2;

#[sk_lookup]
pub fn steer_lookup(ctx: SkLookupContext) -> u32 {
    let c = ctx.lookup;
    // Read everything before choosing: LLVM would merge the branches into a computed context offset.
    let (family, protocol, v4, v6, ports) = unsafe {
        (
            ptr::read_volatile(&raw const (*c).family),
            ptr::read_volatile(&raw const (*c).protocol),
            [ptr::read_volatile(&raw const (*c).remote_ip4), ptr::read_volatile(&raw const (*c).local_ip4)],
            [
                [
                    ptr::read_volatile(&raw const (*c).remote_ip6[0]),
                    ptr::read_volatile(&raw const (*c).remote_ip6[1]),
                    ptr::read_volatile(&raw const (*c).remote_ip6[2]),
                    ptr::read_volatile(&raw const (*c).remote_ip6[3]),
                ],
                [
                    ptr::read_volatile(&raw const (*c).local_ip6[0]),
                    ptr::read_volatile(&raw const (*c).local_ip6[1]),
                    ptr::read_volatile(&raw const (*c).local_ip6[2]),
                    ptr::read_volatile(&raw const (*c).local_ip6[3]),
                ],
            ],
            (ptr::read_volatile(&raw const (*c).remote_port), ptr::read_volatile(&raw const (*c).local_port)),
        )
    };
    if protocol != proto::TCP as u32 {
        return PASS;
    }
    let (kind, src, dst) = if family == AF_INET {
        (Kind::V4, Addr([0, 0, Addr::V4_WORD, v4[0]]), Addr([0, 0, Addr::V4_WORD, v4[1]]))
    } else {
        (Kind::V6, Addr(v6[0]), Addr(v6[1]))
    };
    let key = ConnKey {
        src,
        dst,
        // The remote port is given in network order, the local one in host order.
        sport: ports.0 as u16,
        dport: (ports.1 as u16).to_be(),
        proto: proto::TCP,
        _pad: [0; 3],
    };
    let now_ns = unsafe { helpers::bpf_ktime_get_ns() };
    if let Some(entry) = conn::find(&key, now_ns)
        && entry.flags & conn_flags::REDIRECTED != 0
    {
        // Without a listener the kernel finds none either, and the SYN is refused.
        let slot = steer::slot(entry.flags & conn_flags::INGRESS != 0, kind);
        let _ = LISTENERS.redirect_sk_lookup(&ctx, slot, 0);
    }
    PASS
}
