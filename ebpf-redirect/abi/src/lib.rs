//! What the kernel programs and user space agree on.
//!
//! Owns the layout of every map key and entry, the packet marks, the stable drop reasons and
//! [`decide`], the only L3/L4 policy decision there is. Knows nothing of aya (but for the optional
//! feature `user`), of files or of how a policy was written.
#![no_std]

mod addr;
mod config;
mod conn;
mod event;
mod identity;
pub mod mark;
mod policy;
mod reason;
mod service;
#[cfg(feature = "user")]
mod user;

pub use addr::{Addr, IpcacheEntry, IpcacheKey, ipcache_flags};
pub use config::{Config, EndpointEntry, PORT_EGRESS, PORT_INGRESS, PORT_RESERVED, VethEntry, config_flags};
pub use conn::{
    ConnEntry, ConnKey, FragmentEntry, FragmentKey, account, conn_flags, conn_timeout_ns, connections_allowed,
};
pub use event::{Counter, Event, EventKind};
pub use identity::*;
pub use policy::{
    Decision, Direction, PolicyEntry, PolicyKey, PolicyLookup, Verdict, decide, proto, verdict_code,
};
pub use reason::DropReason;
pub use service::{
    AffinityEntry, AffinityKey, BackendEntry, BackendKey, ListenerSlot, PeerEntry, PeerKey, ServiceEntry,
    ServiceKey, service_flags,
};

/// Version of every layout in this crate. Pins live under a folder of this name, so that an agent with
/// another layout never reads maps it does not understand.
pub const ABI_VERSION: u32 = 4;

/// Most endpoints (pods) that one node carries.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Most entries of one endpoint's policy.
pub const MAX_POLICY_ENTRIES: u32 = 16_384;
/// Most prefixes (pods, nodes, CIDRs of policies) that a node knows.
pub const MAX_IPCACHE: u32 = 512_000;
/// Most live connections that a node tracks; beyond it new ones are dropped (`CONNECTION_MAP_FULL`).
pub const MAX_CONNECTIONS: u32 = 262_144;
/// Most [`account`]s: two for each endpoint, and as many for endpoints that are gone and not yet forgotten.
pub const MAX_ACCOUNTS: u32 = 4 * MAX_ENDPOINTS;
/// Most service ports.
pub const MAX_SERVICES: u32 = 65_536;
/// Most backends, summed over all service ports.
pub const MAX_BACKENDS: u32 = 262_144;
/// Most datagrams whose fragments are followed at once; the oldest go first.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// Most translated sockets (and backends of unconnected UDP sockets) remembered; the oldest go first.
pub const MAX_PEERS: u32 = 65_536;
/// Most clients with session affinity remembered; the oldest go first.
pub const MAX_AFFINITY: u32 = 16_384;
/// Size of the event ring in bytes.
pub const EVENT_RING_BYTES: u32 = 1 << 20;
/// Slots of the per-CPU drop counter: [`drop_slot`] of each [`DropReason`] number and [`Direction`].
pub const MAX_DROP_SLOTS: u32 = 512;

/// Index into map `DROPS`.
pub const fn drop_slot(reason: DropReason, direction: Direction) -> u32 {
    reason as u32 | (direction as u32) << 8
}
