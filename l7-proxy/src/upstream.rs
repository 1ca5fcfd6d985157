//! Connections to backends: with the client's own address as source where the other end must see it, and
//! pooled per client, since a connection that bears one client's address never carries another's request.

pub mod link;
pub mod pool;
mod ports;
pub mod socket;

use std::net::{IpAddr, SocketAddr};

use abi::ipcache_flags;

use crate::config::Peer;
use crate::kernel::ConnectionRecord;
use crate::settings::Bind;

pub use ports::Ports;

#[cfg(test)]
mod tests;

/// Whose address an upstream connection bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Face {
    /// The node's own, chosen by the kernel.
    Node,
    /// The client's, which is a pod of this node; source port from [`abi::PORT_EGRESS`].
    LocalClient(IpAddr),
    /// The client's, which is elsewhere; source port from [`abi::PORT_INGRESS`].
    RemoteClient(IpAddr),
}

/// Chooses the face of a connection of `client` to `target`.
///
/// A pod's server always sees the client. The world and other nodes see this node: what a pod sends there
/// is masqueraded, and an answer to a pod's address would not find the way back to the proxy. So does a pod
/// that reaches itself through a VIP: no socket can have its own address as peer on another machine.
pub fn face(bind: Bind, record: &ConnectionRecord, client: IpAddr, target: SocketAddr, peer: Peer) -> Face {
    if bind == Bind::Loopback || target.ip() == client {
        Face::Node
    } else if record.src_endpoint == 0 {
        Face::RemoteClient(client)
    } else if peer.flags & ipcache_flags::POD != 0 {
        Face::LocalClient(client)
    } else {
        Face::Node
    }
}
