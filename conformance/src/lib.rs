//! Black-box suites: they drive the built `heddle` binary as a user would, in network namespaces of their
//! own, with real clients and servers. This library is their fixture; it sees no other crate of ours but the
//! launcher.

pub mod host;
pub mod http;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod wait;

pub use node::{Node, NodeBuilder, Pod};
pub use wait::eventually;
