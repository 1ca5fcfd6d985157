//! The data plane: listeners, protocols, policy per request, load balancing, upstream connections, access
//! records and drain. Knows nothing of eBPF (it sees the kernel through [`Kernel`]) or of Kubernetes.

pub mod kernel;
pub mod wire;

pub use kernel::{ConnectionRecord, Kernel};
