//! The data plane: listeners, protocols, policy per request, load balancing, upstream connections, access
//! records and drain. Knows nothing of eBPF (it sees the kernel through [`Kernel`]) or of Kubernetes.
//!
//! [`proxy::run`] is the process, [`connection::serve`] the life of one connection, and
//! [`http::exchange::handle`] that of one request.

pub mod admin;
pub mod balance;
pub mod config;
pub mod connection;
pub mod control;
pub mod decide;
pub mod flows;
pub mod guard;
pub mod http;
pub mod kernel;
pub mod listen;
pub mod metrics;
pub mod proxy;
pub mod relay;
pub mod settings;
mod stream;
pub mod upstream;
pub mod wire;
pub mod worker;

pub use kernel::{ConnectionRecord, Kernel};
pub use proxy::{ProxyError, run};
pub use settings::{Bind, Limits, Settings, Sharing};
