//! `heddle agent`: the privileged process of a node. The parts are in `publish` (what is in force), [`attach`]
//! (pods), `api` and `flows`; [`start`] owns the order of the start, [`args`] the command line.
//!
//! It may die at any moment: programs, maps and links are pinned, endpoints are on disk, and a new process
//! takes over without a packet noticing. It ends without removing anything.

pub mod args;
pub mod attach;
mod cluster;
pub mod cni_files;
pub mod endpoints;
pub mod ipam;
mod loops;
mod pods;
pub(crate) mod start;
pub mod state;
mod uplink;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ebpf_redirect::ConnectionUse;
use tokio::sync::{Notify, watch};

use crate::flows::FlowLog;
use crate::layout::Instance;
use crate::metrics::Metrics;
use crate::node::Plumbing;
use crate::publish::Published;
use crate::publish::kernel::KernelHandle;
use crate::publish::proxy::ProxyHub;
use attach::EndpointTable;

pub use args::Args;
pub use pods::{Pods, RegisterError};

/// The running agent, as its API sees it.
#[derive(Debug)]
pub struct Agent {
    pub instance: Instance,
    /// Of pods' interfaces, in bytes.
    pub mtu: u32,
    pub published: watch::Receiver<Arc<Published>>,
    pub proxies: ProxyHub,
    pub flows: FlowLog,
    pub metrics: Metrics,
    pub kernel: KernelHandle,
    /// How full the kernel's map of connections was a second ago.
    pub connections: Mutex<ConnectionUse>,
    pub endpoints: Arc<EndpointTable>,
    /// When and why pods of manifests could not be attached, by `namespace/name`, until they are.
    pub attach_failures: Mutex<BTreeMap<String, (Instant, String)>>,
    /// Readiness of pods that are not attached yet, by `namespace/name`.
    pub readiness: Mutex<HashMap<String, bool>>,
    /// Wakes the publisher.
    pub wake: Arc<Notify>,
    pub pods: Box<dyn Pods>,
    /// Whether the cluster's DNS server is among the manifests by [`args::NodeArgs::cluster_dns`].
    pub cluster_dns: bool,
    /// What is wrong with the CNI plugin's files.
    pub plugin_problem: Mutex<Option<String>>,
    /// The node's network; none in tests of the API alone.
    pub plumbing: Option<Plumbing>,
}
