//! `heddle agent`: the privileged process of a node. Owns the order of its start and the loops that run
//! until it ends; the parts are in `publish` (what is in force), `attach` (pods), `api` and `flows`.
//!
//! It may die at any moment: programs, maps and links are pinned, endpoints are on disk, and a new process
//! takes over without a packet noticing. It ends without removing anything.

pub mod attach;
pub mod endpoints;
pub mod ipam;
pub mod state;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::flows::FlowLog;
use crate::layout::Instance;
use crate::metrics::Metrics;
use crate::publish::Published;
use crate::publish::kernel::KernelHandle;
use crate::publish::proxy::ProxyHub;
use attach::EndpointTable;
use endpoints::Record;

/// The running agent, as its API sees it.
#[derive(Debug)]
pub struct Agent {
    pub instance: Instance,
    pub mtu: u32,
    pub published: watch::Receiver<Arc<Published>>,
    pub proxies: ProxyHub,
    pub flows: FlowLog,
    pub metrics: Metrics,
    pub kernel: KernelHandle,
    pub endpoints: Arc<EndpointTable>,
    /// Wakes the publisher.
    pub wake: Arc<Notify>,
    pub pods: Box<dyn Pods>,
}

/// Why a pod cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "pod {namespace}/{name} has no manifest: add a Pod named {name} in namespace {namespace} to the manifests"
    )]
    NoManifest { namespace: String, name: String },
    #[error("pod {0} uses the node's network (hostNetwork): it gets no interface of its own")]
    HostNetwork(String),
}

/// The source of configuration as the API needs it.
pub trait Pods: Send + Sync + std::fmt::Debug {
    /// Whether there is a manifest for a pod that may be attached.
    fn known(&self, namespace: &str, name: &str) -> Result<(), RegisterError>;
    /// Gives a pod its endpoint id and addresses in the snapshots to come.
    fn register(&self, record: &Record) -> Result<(), RegisterError>;
    /// Takes them away, unless a newer attachment of the pod has taken their place.
    fn unregister(&self, record: &Record);
    /// Sets a pod's readiness; false: there is no such pod.
    fn set_ready(&self, namespace: &str, name: &str, ready: bool) -> bool;
    /// Manifests that were refused or are doubtful.
    fn problems(&self) -> Vec<crate::api::types::Problem>;
}
