//! The source of configuration as the rest of the agent sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::endpoints::Record;
use crate::api::types::Problem;
use crate::sources::{self, Registration, Registry, Severity};

/// How long a pod's object may take from the API server to this agent after kubelet has it.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// Why a pod cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "pod {namespace}/{name} has no manifest: add a Pod named {name} in namespace {namespace} to the manifests"
    )]
    NoManifest { namespace: String, name: String },
    #[error("pod {namespace}/{name} (uid {uid}) is not known to the API server, or not to this agent yet")]
    NotInCluster { namespace: String, name: String, uid: String },
    #[error("pod {0} uses the node's network (hostNetwork): it gets no interface of its own")]
    HostNetwork(String),
    #[error("pod {pod}: {what} is not supported: remove it from the pod")]
    NotSupported { pod: String, what: &'static str },
}

/// Pods by their manifests, and where attached ones are told to the source.
pub trait Pods: Send + Sync + std::fmt::Debug {
    /// Whether there is a manifest for a pod that may be attached. An empty `uid` is any.
    fn known(&self, namespace: &str, name: &str, uid: &str) -> Result<(), RegisterError>;
    /// How long a pod may be unknown although it exists: whoever starts it may have heard of it first.
    fn arrival_max(&self) -> Duration;
    /// Whether somebody will ask the pod if it is ready.
    fn has_readiness_probe(&self, record: &Record) -> bool;
    /// Gives a pod its endpoint id, addresses and readiness in the snapshots to come.
    fn register(&self, record: &Record);
    /// Takes them away. A newer attachment of the same pod keeps its own.
    fn unregister(&self, record: &Record);
    /// Notes which addresses the node has now.
    fn set_node_addresses(&self, addresses: Vec<IpAddr>);
    /// Manifests that were refused or are doubtful.
    fn problems(&self) -> Vec<Problem>;
    /// Everything that the source has published, now and from now on.
    fn subscribe(&self) -> watch::Receiver<Arc<sources::Published>>;
}

/// [`Pods`] of a running source.
#[derive(Debug)]
pub(super) struct SourcePods {
    pub(super) registry: Registry,
    pub(super) published: watch::Receiver<Arc<sources::Published>>,
    /// The source is a cluster's API server.
    pub(super) managed: bool,
}

/// A record as the source takes it.
pub(super) fn registration(record: &Record) -> Registration {
    Registration {
        namespace: record.namespace.clone(),
        pod: record.pod.clone(),
        endpoint: record.id,
        addresses: record.addresses.clone(),
        ready: record.ready,
    }
}

impl SourcePods {
    fn manifest(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.published.borrow().pods.get(&format!("{namespace}/{name}")).cloned()
    }
}

impl Pods for SourcePods {
    fn known(&self, namespace: &str, name: &str, uid: &str) -> Result<(), RegisterError> {
        let missing = || {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            match self.managed {
                true => RegisterError::NotInCluster { namespace, name, uid: uid.to_owned() },
                false => RegisterError::NoManifest { namespace, name },
            }
        };
        let pod = self.manifest(namespace, name).ok_or_else(missing)?;
        if sources::endpoints::is_host_network(&pod) {
            return Err(RegisterError::HostNetwork(format!("{namespace}/{name}")));
        }
        if !self.managed {
            return Ok(());
        }
        // A pod of the same name that came after it may have other labels.
        if !uid.is_empty() && !sources::endpoints::has_uid(&pod, uid) {
            return Err(missing());
        }
        match sources::endpoints::unsupported(&pod) {
            Some(what) => Err(RegisterError::NotSupported { pod: format!("{namespace}/{name}"), what }),
            None => Ok(()),
        }
    }

    fn arrival_max(&self) -> Duration {
        if self.managed { ARRIVAL_MAX } else { Duration::ZERO }
    }

    fn has_readiness_probe(&self, record: &Record) -> bool {
        let pod = self.manifest(&record.namespace, &record.pod);
        let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
        spec.is_some_and(|spec| spec.containers.iter().any(|c| c.readiness_probe.is_some()))
    }

    fn register(&self, record: &Record) {
        self.registry.upsert(registration(record));
    }

    fn unregister(&self, record: &Record) {
        self.registry.remove(record.id);
    }

    fn set_node_addresses(&self, addresses: Vec<IpAddr>) {
        self.registry.set_node_addresses(addresses);
    }

    fn problems(&self) -> Vec<Problem> {
        let problems = self.published.borrow().problems.clone();
        let mut sorted: Vec<_> = problems.iter().collect();
        sorted.sort_by_key(|problem| problem.severity);
        let problem = |problem: &&sources::Problem| {
            let object = if problem.object.is_empty() {
                problem.file.display().to_string()
            } else {
                problem.object.clone()
            };
            // The place is said once: a file's own trouble is about the file.
            let told = if problem.object.is_empty() { problem.without_file() } else { problem.to_string() };
            let severity = if problem.severity == Severity::Warning { "warning: " } else { "" };
            Problem { object, message: format!("{severity}{told}") }
        };
        sorted.iter().map(problem).collect()
    }

    fn subscribe(&self) -> watch::Receiver<Arc<sources::Published>> {
        self.published.clone()
    }
}

#[cfg(test)]
mod tests;
