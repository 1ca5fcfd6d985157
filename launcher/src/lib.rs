//! Runs Pods as processes: the kubelet of a single machine, without images.
//!
//! Each pod gets a network namespace made through the CNI plugin, a cgroup v2 folder, `/etc/resolv.conf` and
//! `/etc/hosts` of its own, and its containers' `command` as processes in them; they see the machine's files
//! and programs. Probes come from the node's own network namespace, as a kubelet's do, and do not depend on
//! any proxy. This is a way to try manifests, not a sandbox: pods share files and process ids with the node.
//!
//! Knows of the mesh only the plugin's command line and the agent's readiness call.

mod cgroup;
mod cni;
pub mod dns;
pub mod exec;
mod launcher;
mod logs;
mod names;
mod netns;
mod options;
mod plan;
mod pod;
mod probe;
mod report;
mod sandbox;
mod status;

pub use launcher::{Launcher, StartError};
pub use options::{Backoff, Options};
pub use plan::{FieldError, PodPlan};
pub use status::{ContainerStatus, Phase, PodStatus};
