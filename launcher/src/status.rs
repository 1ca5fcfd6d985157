//! What can be seen of pods from outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use serde::Serialize;

use crate::names::PodKey;
use crate::report::Reporter;

/// Life of a pod, as Kubernetes names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Being set up: its network, its init containers.
    #[default]
    Pending,
    Running,
    /// Every container ended well and none will be restarted.
    Succeeded,
    /// Every container ended, one of them badly, and none will be restarted.
    Failed,
    Terminating,
    /// The launcher cannot run this pod; `message` says why.
    Refused,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub phase: Phase,
    pub ready: bool,
    pub addresses: Vec<IpAddr>,
    /// Why it is not running, or what was left unread of it.
    pub message: String,
    pub containers: Vec<ContainerStatus>,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    pub name: String,
    pub ready: bool,
    pub restarts: u32,
    /// Process id while it runs.
    pub pid: Option<u32>,
    /// How it ended last, or why it waits.
    pub message: String,
}

/// The state of all pods. Tells the agent when a pod's readiness changes.
#[derive(Debug)]
pub(crate) struct Board {
    pods: Mutex<BTreeMap<PodKey, PodStatus>>,
    reporter: Reporter,
}

impl Board {
    pub(crate) fn new(reporter: Reporter) -> Self {
        Board { pods: Mutex::default(), reporter }
    }

    /// A new pod with these containers, none of them ready.
    pub(crate) fn begin(&self, key: &PodKey, containers: impl Iterator<Item = String>, message: String) {
        let status = PodStatus {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            message,
            containers: containers.map(|name| ContainerStatus { name, ..Default::default() }).collect(),
            ..Default::default()
        };
        self.lock().insert(key.clone(), status);
        self.reporter.set(key, false);
    }

    /// Waits until the agent knows of the pod what was noted last, or cannot be told.
    pub(crate) async fn told(&self, key: &PodKey) {
        self.reporter.told(key).await;
    }

    /// A pod that cannot be run.
    pub(crate) fn refuse(&self, key: &PodKey, message: String) {
        self.begin(key, std::iter::empty(), message);
        self.update(key, |pod| pod.phase = Phase::Refused);
    }

    /// Changes a pod's status; does nothing for one that was removed.
    pub(crate) fn update(&self, key: &PodKey, change: impl FnOnce(&mut PodStatus)) {
        let mut pods = self.lock();
        let Some(pod) = pods.get_mut(key) else { return };
        change(pod);
        let running = pod.phase == Phase::Running;
        pod.ready = running && !pod.containers.is_empty() && pod.containers.iter().all(|c| c.ready);
        self.reporter.set(key, pod.ready);
    }

    /// Changes the status of one container.
    pub(crate) fn container(&self, key: &PodKey, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.update(key, |pod| {
            if let Some(container) = pod.containers.iter_mut().find(|c| c.name == name) {
                change(container);
            }
        });
    }

    pub(crate) fn forget(&self, key: &PodKey) {
        self.lock().remove(key);
        self.reporter.forget(key);
    }

    pub(crate) fn all(&self) -> Vec<PodStatus> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodKey, PodStatus>> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
