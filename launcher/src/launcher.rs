//! The launcher itself: which pods are wanted, and one task for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::names::PodKey;
use crate::options::Options;
use crate::plan::{FieldError, PodPlan};
use crate::pod::{self, Stop};
use crate::report::Reporter;
use crate::sandbox::{self, Shared};
use crate::status::{Board, PodStatus};

/// Why a launcher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("running pods needs root: network namespaces, mounts and cgroups")]
    NotRoot,
    #[error("{0} is no cgroup v2 folder; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoCgroup(PathBuf),
    #[error("{0}: {1}")]
    Folder(PathBuf, #[source] io::Error),
    #[error("cannot remove what an earlier run left: {0}")]
    Leftovers(String),
}

/// Runs pods. End it with [`Launcher::shutdown`]: what a program that just stops leaves is removed by the
/// next launcher of the instance.
#[derive(Debug)]
pub struct Launcher {
    shared: Arc<Shared>,
    pods: BTreeMap<PodKey, Supervised>,
    refused: BTreeSet<PodKey>,
    reporting: JoinHandle<()>,
}

#[derive(Debug)]
struct Supervised {
    wanted: watch::Sender<Option<Arc<PodPlan>>>,
    /// True while nothing of the pod is there.
    idle: watch::Receiver<bool>,
}

impl Launcher {
    /// Prepares the node's folders and removes what an earlier launcher of this instance left.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        let pods = sandbox::pods_folder(&options);
        for folder in [&options.run_dir.join("logs"), &pods, &options.cgroup] {
            fs::create_dir_all(folder).map_err(|e| StartError::Folder(folder.clone(), e))?;
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&pods, private).map_err(|e| StartError::Folder(pods, e))?;
        if !options.cgroup.join("cgroup.kill").exists() {
            return Err(StartError::NoCgroup(options.cgroup));
        }
        sandbox::remove_leftovers(&options).await.map_err(|e| StartError::Leftovers(e.to_string()))?;
        let (reporter, reporting) = Reporter::start(options.agent_socket());
        let shared = Arc::new(Shared::new(options, Board::new(reporter)));
        Ok(Launcher { shared, pods: BTreeMap::new(), refused: BTreeSet::new(), reporting })
    }

    /// Makes these the pods of the node: starts new ones, replaces changed ones, ends the others, and returns
    /// at once. Pods that cannot be run are returned with the reasons; where an earlier version of one runs,
    /// it goes on.
    pub fn apply(&mut self, pods: impl IntoIterator<Item = Pod>) -> Vec<(String, Vec<FieldError>)> {
        let mut wanted = BTreeSet::new();
        let mut refusals = Vec::new();
        self.reap();
        for pod in pods {
            if !PodPlan::is_for(&pod, &self.shared.options.node_name) {
                continue;
            }
            match PodPlan::of(&pod) {
                Ok(plan) => {
                    wanted.insert(plan.key.clone());
                    self.refused.remove(&plan.key);
                    self.want(plan);
                }
                Err(errors) => {
                    let key = PodKey {
                        namespace: pod.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
                        name: pod.metadata.name.unwrap_or_default(),
                    };
                    refusals.push((key.to_string(), errors.clone()));
                    wanted.insert(key.clone());
                    self.refuse(key, &errors);
                }
            }
        }
        for (key, supervised) in &self.pods {
            if !wanted.contains(key) {
                supervised.wanted.send_if_modified(|plan| plan.take().is_some());
            }
        }
        let board = &self.shared.board;
        self.refused.retain(|key| {
            let keep = wanted.contains(key);
            if !keep {
                board.forget(key);
            }
            keep
        });
        refusals
    }

    /// Every pod that is there or refused.
    pub fn status(&self) -> Vec<PodStatus> {
        self.shared.board.all()
    }

    /// Ends all pods, each within its grace period, and returns when nothing of them is left.
    pub async fn shutdown(&mut self) {
        self.apply(std::iter::empty());
        for (_, mut supervised) in std::mem::take(&mut self.pods) {
            supervised.idle.wait_for(|idle| *idle).await.ok();
        }
        // The folder is the kernel's to keep if somebody else put processes there.
        fs::remove_dir(self.shared.options.cgroup.join("pods")).ok();
    }

    fn want(&mut self, plan: PodPlan) {
        let plan = Arc::new(plan);
        let supervised = self.pods.entry(plan.key.clone()).or_insert_with(|| {
            let (wanted, receiver) = watch::channel(None);
            let (idle, idle_receiver) = watch::channel(true);
            tokio::spawn(supervise(Arc::clone(&self.shared), plan.key.clone(), receiver, idle));
            Supervised { wanted, idle: idle_receiver }
        });
        supervised.wanted.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&plan);
            if changed {
                *current = Some(plan);
            }
            changed
        });
    }

    fn refuse(&mut self, key: PodKey, errors: &[FieldError]) {
        let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let message = format!("refused: {}", reasons.join("; "));
        warn!(pod = %key, "{message}");
        let running = self.pods.get(&key).is_some_and(|s| s.wanted.borrow().is_some());
        if running {
            self.shared.board.update(&key, |pod| pod.message = message);
        } else {
            self.shared.board.refuse(&key, message);
            self.refused.insert(key);
        }
    }

    /// Lets go of tasks whose pods are gone.
    fn reap(&mut self) {
        self.pods.retain(|_, pod| pod.wanted.borrow().is_some() || !*pod.idle.borrow());
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.reporting.abort();
    }
}

/// Runs what is wanted of one pod until nobody can want anything any more.
async fn supervise(
    shared: Arc<Shared>,
    key: PodKey,
    mut wanted: watch::Receiver<Option<Arc<PodPlan>>>,
    idle: watch::Sender<bool>,
) {
    loop {
        let plan = wanted.borrow_and_update().clone();
        let Some(plan) = plan else {
            idle.send_replace(true);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        idle.send_replace(false);
        let (tell, told) = watch::channel(false);
        let running = pod::run(Arc::clone(&shared), plan, Stop(told));
        tokio::pin!(running);
        let open = tokio::select! {
            // It comes back only after it was told to end.
            () = &mut running => wanted.changed().await.is_ok(),
            changed = wanted.changed() => {
                tell.send_replace(true);
                running.await;
                changed.is_ok()
            }
        };
        if wanted.borrow().is_none() {
            shared.board.forget(&key);
        }
        if !open {
            return;
        }
    }
}
