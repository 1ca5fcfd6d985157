//! Services: virtual IP and port -> backends, for connect-time translation.

use crate::Addr;

/// Key of map `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub addr: Addr,
    /// Network order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    pub _pad: u8,
}

/// Value of map `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Number of this service port, 1 or more: first half of [`BackendKey`].
    pub id: u32,
    /// Ready backends: slots 0 .. count.
    pub count: u32,
    /// See [`service_flags`].
    pub flags: u32,
    /// Session affinity by client in seconds; 0 = none.
    pub affinity_seconds: u32,
}

/// Bits of [`ServiceEntry::flags`].
pub mod service_flags {
    /// The service needs layer 7: a pod's TCP connection keeps the VIP and goes to the proxy. The node's
    /// own processes are translated all the same.
    pub const KEEP_VIP: u32 = 1;
}

/// Key of map `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub service: u32,
    pub slot: u32,
}

/// Value of map `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendEntry {
    pub addr: Addr,
    /// Network order.
    pub port: u16,
    pub _pad: u16,
}

/// Key of map `PEERS` (LRU): a socket and the backend it was translated to, so that the reverse hooks
/// (`getpeername`, `recvmsg`) show the VIP again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    pub addr: Addr,
    /// Network order.
    pub port: u16,
    pub _pad: [u16; 3],
}

/// Value of map `PEERS`: the VIP that the application asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    pub addr: Addr,
    /// Network order.
    pub port: u16,
    pub _pad: u16,
}

/// Key of map `AFFINITY` (LRU): the client (its network namespace) and the service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    pub netns_cookie: u64,
    pub service: u32,
    pub _pad: u32,
}

/// Value of map `AFFINITY`: the backend that the client was given last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityEntry {
    /// `bpf_ktime_get_ns` of the last use.
    pub used_ns: u64,
    pub backend: BackendEntry,
    /// Where the backend was; it may have moved since.
    pub slot: u32,
}

/// Slot of the SOCKMAP `LISTENERS`: one transparent listener per direction and address family.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenerSlot {
    EgressV4 = 0,
    EgressV6 = 1,
    IngressV4 = 2,
    IngressV6 = 3,
}

impl ListenerSlot {
    /// Number of slots.
    pub const COUNT: u32 = 4;
    /// Every slot.
    pub const ALL: [Self; 4] = [Self::EgressV4, Self::EgressV6, Self::IngressV4, Self::IngressV6];
}
