//! Packet marks (`skb->mark`), all under [`MASK`]. A mark does not survive the way into another network
//! namespace, so a pod cannot forge one.

/// The bits that are ours.
pub const MASK: u32 = 0xf00;
/// Decided and allowed on its direct way through the node's stack. What no program marked is not routed to a
/// pod. (Between two pods of the node most packets do not go through the stack, and have no mark.)
pub const DIRECT: u32 = 0x100;
/// Assigned to a socket of the proxy: routed locally (rule 101, table 2005).
pub const TO_PROXY: u32 = 0x200;
/// On sockets of the node's own processes whose connection needs the proxy (`--allow-localhost policy`): routed
/// over the loopback device (rule 96, table 2006), where the program `from_node` takes it.
pub const NODE: u32 = 0x400;
/// Sent by the proxy's upstream sockets (SO_MARK): the gate of the pod lets it in.
pub const UPSTREAM: u32 = 0xa00;
/// A reply from outside whose destination nftables translated back to a pod (masquerade): it met the device's
/// program before the translation. May be routed, but the pod's gate decides by the connection map as if it
/// had no mark.
pub const TRANSLATED: u32 = 0x300;
