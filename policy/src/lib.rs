//! The policy model and its compiler: pure, no I/O, no clock.
//!
//! [`Snapshot`] is the one input, [`CompiledPolicy`] the one output; the kernel gets its map entries and
//! the proxy its matchers from the same compilation, under one revision. Knows nothing of where objects
//! came from, of eBPF, or of any async runtime.

pub mod compiled;
pub mod l7;
pub mod model;
pub mod snapshot;

pub use compiled::{CompiledPolicy, EndpointPolicy, IpcacheTarget, RuleRef};
pub use l7::{L7Policy, L7Verdict, RequestHead};
pub use snapshot::Snapshot;
