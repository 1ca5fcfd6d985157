//! `heddle`: the node agent, the command line and the glue between the other crates.
//!
//! One binary for every process of a node: `heddle agent` (privileged, owns eBPF), `heddle proxy` (own user,
//! owns connections), `heddle cni` (started by a runtime) and the user's commands. Knows where things are
//! on a node ([`layout`]); policy, data plane and eBPF are the business of their crates.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cni;
pub mod descriptors;
pub mod dns;
pub mod exec;
pub mod explain;
pub mod flows;
pub mod layout;
pub mod metrics;
pub mod node;
pub mod proxy_cmd;
pub mod publish;
pub mod run;
pub mod sources;
pub mod uninstall;
pub mod yaml;
