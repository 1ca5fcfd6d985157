//! The compiled kernel programs, and the names of what is in them.

use crate::sys::AttachType;

/// The object that `cargo xtask bpf` builds from `kern`.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("../heddle.bpf.o");

pub(crate) const FROM_POD: &str = "from_pod";
pub(crate) const TO_POD: &str = "to_pod";
pub(crate) const FROM_NETDEV: &str = "from_netdev";
pub(crate) const FROM_NODE: &str = "from_node";
pub(crate) const STEER_LOOKUP: &str = "steer_lookup";

/// Programs for devices.
pub(crate) const CLASSIFIERS: [&str; 4] = [FROM_POD, TO_POD, FROM_NETDEV, FROM_NODE];

/// Programs for the cgroup, and where each of them goes.
pub(crate) const CGROUP: [(&str, AttachType); 8] = [
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
    ("sendmsg4", AttachType::SendMsg4),
    ("sendmsg6", AttachType::SendMsg6),
    ("recvmsg4", AttachType::RecvMsg4),
    ("recvmsg6", AttachType::RecvMsg6),
    ("getpeername4", AttachType::GetPeerName4),
    ("getpeername6", AttachType::GetPeerName6),
];

pub(crate) const CONFIG: &str = "CONFIG";
pub(crate) const ENDPOINTS: &str = "ENDPOINTS";
pub(crate) const VETHS: &str = "VETHS";
pub(crate) const NETNS: &str = "NETNS";
pub(crate) const IPCACHE: &str = "IPCACHE";
pub(crate) const POLICY: &str = "POLICY";
pub(crate) const CONNECTIONS: &str = "CONNECTIONS";
pub(crate) const OPENED: &str = "OPENED";
pub(crate) const RELEASED: &str = "RELEASED";
pub(crate) const SERVICES: &str = "SERVICES";
pub(crate) const BACKENDS: &str = "BACKENDS";
pub(crate) const LISTENERS: &str = "LISTENERS";
pub(crate) const DROPS: &str = "DROPS";
pub(crate) const COUNTERS: &str = "COUNTERS";
pub(crate) const EVENTS: &str = "EVENTS";

/// Every map that is pinned, so that a new program finds what an older one knew. The programs have others
/// for what one packet or one CPU needs for a moment.
pub(crate) const MAPS: [&str; 18] = [
    CONFIG,
    ENDPOINTS,
    VETHS,
    NETNS,
    IPCACHE,
    POLICY,
    CONNECTIONS,
    OPENED,
    RELEASED,
    "FRAGMENTS",
    SERVICES,
    BACKENDS,
    "PEERS",
    "AFFINITY",
    LISTENERS,
    DROPS,
    COUNTERS,
    EVENTS,
];
