//! The proxy's view of the kernel programs: where it puts its listeners, and whom it believes about the
//! origin of a connection. Implemented over pinned maps by whoever links the two crates.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use abi::ListenerSlot;

/// What the kernel program recorded when it gave a connection to the proxy. The only source of a
/// connection's identity: addresses are reused, and the listener's own port is reachable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Identity of the client.
    pub src_identity: u32,
    /// Identity of the destination; 0 for a kept VIP.
    pub dst_identity: u32,
    /// Client's endpoint id if it is a pod of this node, otherwise 0.
    pub src_endpoint: u32,
    /// Server's endpoint id if it is a pod of this node, otherwise 0 (also for a kept VIP).
    pub dst_endpoint: u32,
    /// The destination is a service's VIP: policy is decided for the backend that the proxy chooses.
    pub vip: bool,
    /// Came by an ingress listener: the client is not on this node.
    pub ingress: bool,
    /// Policy revision that redirected it.
    pub revision: u32,
}

/// The kernel as the proxy needs it.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// Puts a listening socket into its slot; from then on the kernel gives it connections. Replaces the
    /// socket that was there.
    fn publish_listener(&self, slot: ListenerSlot, listener: BorrowedFd<'_>) -> io::Result<()>;

    /// The record of the connection from `client` to `original_destination`; `None` if there is none.
    fn connection(
        &self,
        client: SocketAddr,
        original_destination: SocketAddr,
    ) -> io::Result<Option<ConnectionRecord>>;

    /// Where `client` wanted to go. A transparent listener's connections have it as their own address; only
    /// tests on plain listeners say otherwise.
    fn original_destination(&self, _client: SocketAddr, local: SocketAddr) -> SocketAddr {
        local
    }
}
