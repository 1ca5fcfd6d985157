//! Node-wide settings (map `CONFIG`) and the endpoint behind each veth (map `ENDPOINTS`).

use crate::Addr;

/// The one entry (index 0) of map `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`crate::ABI_VERSION`] of the agent that wrote this. Programs drop everything while it is 0.
    pub abi_version: u32,
    /// Policy revision now in force in the kernel. Connections decided under another are decided anew.
    pub revision: u32,
    /// `bpf_get_netns_cookie` of the node's network namespace: tells pods from the node's own processes.
    pub node_netns_cookie: u64,
    /// See [`config_flags`].
    pub flags: u32,
    /// New-connection and drop events a second and CPU; what is left out is counted. 0 = no limit.
    pub events_per_second: u32,
    /// UDP port of the tunnel in host order; pods never reach it on any node.
    pub tunnel_port: u32,
    /// Connections that the programs reckon with, at most what the map can hold; 0 = [`crate::MAX_CONNECTIONS`].
    /// What each pod may have of them: [`crate::connections_allowed`].
    pub connections_max: u32,
}

impl Config {
    /// Connections that the map has room for.
    pub const fn room(&self) -> u64 {
        (if self.connections_max == 0 { crate::MAX_CONNECTIONS } else { self.connections_max }) as u64
    }
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// `allow-localhost: policy`: the node's own traffic to its pods is policed too.
    pub const POLICE_NODE: u32 = 1;
}

/// Ports of pods that only the proxy may use as a source: `ip_local_reserved_ports` of every pod.
pub const PORT_RESERVED: (u16, u16) = (60_000, 65_534);
/// Source ports of upstream connections whose client is a pod of this node.
pub const PORT_EGRESS: (u16, u16) = (60_000, 62_499);
/// Source ports of upstream connections whose client is elsewhere.
pub const PORT_INGRESS: (u16, u16) = (62_500, 65_534);

/// Value of map `ENDPOINTS` (key: index of the host's end of the veth, u32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointEntry {
    /// `bpf_get_netns_cookie` of its network namespace: its sockets' calls are translated. 0: not known, and
    /// they are not.
    pub netns_cookie: u64,
    /// Node-local endpoint id, 1 or more; key of map `POLICY`.
    pub id: u32,
    /// Security identity of what it sends from its IPv4 address. The two differ where a NetworkPolicy's
    /// `ipBlock` holds one address and not the other.
    pub identity_v4: u32,
    /// Security identity of what it sends from its IPv6 address.
    pub identity_v6: u32,
    /// Its IPv4 address (mapped), or all zero.
    pub ipv4: Addr,
    /// Its IPv6 address, or all zero.
    pub ipv6: Addr,
    /// Hardware address of the pod's end of the veth; all zero: not known, and packets go to it through the
    /// node's stack.
    pub mac: [u8; 6],
    pub _pad: [u8; 6],
}

/// Value of map `VETHS` (key: endpoint id, u32): the way to a pod of this node. The loader derives it from
/// [`EndpointEntry`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VethEntry {
    /// Index of the host's end.
    pub ifindex: u32,
    /// Hardware address of the pod's end.
    pub mac: [u8; 6],
    pub _pad: [u8; 2],
}
