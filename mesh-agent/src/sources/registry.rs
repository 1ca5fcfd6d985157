//! The pods that this node really runs, as the CNI plugin attached them: ids, addresses, readiness; and the
//! node's own addresses. What the manifests say and what is here meet in the snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One attached pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub namespace: String,
    pub pod: String,
    /// Node-local endpoint id, 1 or more.
    pub endpoint: u32,
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
}

/// What a source waits at, as far as others reach it.
pub(super) trait Wake: Send + Sync + std::fmt::Debug {
    /// Pods were attached, detached or changed their readiness.
    fn registry(&self);
    /// The source shall end.
    fn stop(&self);
}

/// Handle to the attached pods; clones share one state. Every change wakes the source, which answers with a
/// new snapshot; [`super::Published::registered`] says which changes it holds.
#[derive(Clone, Debug)]
pub struct Registry {
    state: Arc<Mutex<State>>,
    source: Arc<dyn Wake>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts changes.
    generation: u64,
    by_id: BTreeMap<u32, Registration>,
    /// The node's own; `None`: as they were at the start.
    node_addresses: Option<Vec<IpAddr>>,
}

impl Registry {
    pub(super) fn new(source: Arc<dyn Wake>, attached: Vec<Registration>) -> Self {
        let by_id = attached.into_iter().map(|r| (r.endpoint, r)).collect();
        Self { state: Arc::new(Mutex::new(State { by_id, ..State::default() })), source }
    }

    /// Adds or replaces an attached pod, known by its endpoint id. Returns the generation whose snapshot
    /// has it.
    pub fn upsert(&self, registration: Registration) -> u64 {
        self.change(|by_id| {
            let same = by_id.get(&registration.endpoint) == Some(&registration);
            by_id.insert(registration.endpoint, registration);
            !same
        })
    }

    /// Forgets an attached pod.
    pub fn remove(&self, endpoint: u32) -> u64 {
        self.change(|by_id| by_id.remove(&endpoint).is_some())
    }

    /// Notes whether a pod is ready. A pod that is not attached is ignored.
    pub fn set_ready(&self, namespace: &str, pod: &str, ready: bool) -> u64 {
        self.change(|by_id| {
            let of_pod = by_id.values_mut().filter(|r| r.namespace == namespace && r.pod == pod);
            of_pod.fold(false, |changed, r| {
                let differs = r.ready != ready;
                r.ready = ready;
                changed || differs
            })
        })
    }

    /// Notes which addresses the node has.
    pub fn set_node_addresses(&self, addresses: Vec<IpAddr>) {
        let mut state = self.lock();
        if state.node_addresses.as_ref() != Some(&addresses) {
            state.node_addresses = Some(addresses);
            self.source.registry();
        }
    }

    /// The node's addresses, if they were noted since the start.
    pub(super) fn node_addresses(&self) -> Option<Vec<IpAddr>> {
        self.lock().node_addresses.clone()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Registration>) -> bool) -> u64 {
        let mut state = self.lock();
        if change(&mut state.by_id) {
            state.generation += 1;
            self.source.registry();
        }
        state.generation
    }

    /// The pods by `namespace/name`, with the generation they are of. Of two attachments of one pod (a
    /// sandbox being replaced) the one with the higher id.
    pub(super) fn current(&self) -> (u64, BTreeMap<String, Registration>) {
        let state = self.lock();
        let by_pod = state.by_id.values().map(|r| (format!("{}/{}", r.namespace, r.pod), r.clone()));
        (state.generation, by_pod.collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
