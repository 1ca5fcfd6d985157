//! The user-space side of the kernel programs: loads and attaches them, writes their maps, reads their
//! events. Everything that must outlive the agent is pinned, so that the agent can die, come back or be
//! upgraded without a packet noticing.
//!
//! Owns the folder of pins and the order in which map entries change. Knows nothing of policy, services or
//! manifests: the agent hands it finished map entries of the crate `abi`.

mod counters;
mod datapath;
mod error;
mod events;
mod map;
mod object;
mod pins;
mod probe;
mod proxy;
mod sys;

pub use counters::Counters;
pub use datapath::{Attachment, Changes, ConnectionUse, Datapath, GcReport, Options, remove_pins};
pub use error::{AttachError, MapError, OpenError, PinError};
pub use events::Events;
pub use probe::{KERNEL_MIN, is_cgroup2, prerequisites};
pub use proxy::ProxyMaps;
