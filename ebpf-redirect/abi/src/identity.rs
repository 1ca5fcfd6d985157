//! Reserved identities (numbers as Cilium's) and the ranges of the others.

pub const IDENTITY_UNKNOWN: u32 = 0;
pub const IDENTITY_HOST: u32 = 1;
pub const IDENTITY_WORLD: u32 = 2;
pub const IDENTITY_UNMANAGED: u32 = 3;
pub const IDENTITY_HEALTH: u32 = 4;
pub const IDENTITY_INIT: u32 = 5;
pub const IDENTITY_REMOTE_NODE: u32 = 6;
pub const IDENTITY_KUBE_APISERVER: u32 = 7;
pub const IDENTITY_INGRESS: u32 = 8;
pub const IDENTITY_WORLD_IPV4: u32 = 9;
pub const IDENTITY_WORLD_IPV6: u32 = 10;
/// First number of label sets; below it all numbers are reserved.
pub const IDENTITY_FIRST: u32 = 256;
/// Last number of label sets (24 bits: it travels in a VXLAN VNI).
pub const IDENTITY_LAST: u32 = (1 << 24) - 1;
/// First number of node-local identities (CIDRs): never on the wire.
pub const IDENTITY_LOCAL_FIRST: u32 = 1 << 24;
