//! What the agent does to its node in a cluster: the CNI plugin's files, and the taint that keeps pods away
//! until they can be policed.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::Agent;
use super::cni_files::CniFiles;
use crate::sources::kubernetes;

/// Taint of a node whose agent has never been ready.
const TAINT: &str = "heddle.io/agent-not-ready";
/// The program itself, whatever became of its file.
const SELF: &str = "/proc/self/exe";
/// How often the plugin's files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(3);
/// How often the taint is looked for: a node that registers anew has it again.
const TAINT_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Installs the plugin once policy is in force, and keeps it installed.
pub(super) async fn keep_plugin(agent: Arc<Agent>, mut files: CniFiles) {
    let mut published = agent.published.clone();
    if published.wait_for(|state| state.revision != 0).await.is_err() {
        return;
    }
    loop {
        let (outcome, hidden);
        (files, outcome, hidden) = {
            let look = move || {
                let outcome = files.ensure(Path::new(SELF));
                let hidden = files.hidden_by();
                (files, outcome, hidden)
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(seen) => seen,
                Err(error) => return tracing::error!("the CNI plugin's files are not kept: {error}"),
            }
        };
        let problem = match (outcome, hidden) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), Some(path)) => {
                Some(format!("{} comes before ours: new pods go to another network", path.display()))
            }
            (Ok(done), None) => {
                if done {
                    tracing::info!("the CNI plugin and its configuration are in place");
                }
                None
            }
        };
        *agent.plugin_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        tokio::time::sleep(FILES_EVERY).await;
    }
}

/// Lifts the taint as soon as the node polices its pods.
pub(super) async fn lift_taint(agent: Arc<Agent>, client: Client, node: String) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        let pause = if !crate::api::is_enforcing(&agent) {
            RETRY_AFTER
        } else {
            match lift(&nodes, &node).await {
                Ok(lifted) => {
                    if lifted {
                        tracing::info!("taint {TAINT} of node {node} is lifted");
                    }
                    TAINT_EVERY
                }
                Err(error) => {
                    tracing::warn!(
                        "taint {TAINT} of node {node} cannot be lifted: {}",
                        kubernetes::words(&error)
                    );
                    RETRY_AFTER
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn lift(nodes: &Api<Node>, name: &str) -> kube::Result<bool> {
    let node = nodes.get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let rest: Vec<_> = taints.iter().filter(|taint| taint.key != TAINT).collect();
    if rest.len() == taints.len() {
        return Ok(false);
    }
    // With the version, so that a taint which somebody adds meanwhile is not lost.
    let patch =
        json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": rest}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(true)
}
