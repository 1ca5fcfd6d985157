//! The pods of the manifests, by the launcher: the agent says which there are, for it is the one that reads
//! manifests and refuses what is wrong in them.

use std::time::Duration;

use anyhow::Context;
use launcher::{Launcher, Options};

use crate::api::client::Client;
use crate::api::types::{NodePods, Status};
use crate::cli::Global;
use crate::layout::cgroup2_mount;

/// How often it is asked whether all pods are ready.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Before the agent is asked again, when it has ended.
const RECONNECT: Duration = Duration::from_millis(200);

/// Prepares the launcher; the pods themselves come with [`follow`].
pub(super) async fn start(global: &Global, client: &Client) -> anyhow::Result<Launcher> {
    let mut first: Option<NodePods> = None;
    let take = |line: &str| {
        first = serde_json::from_str(line).ok();
        false
    };
    client.lines("/v1/pods", take).await?;
    let first = first.context("the agent did not say which pods there are")?;
    let heddle = std::env::current_exe().context("cannot find the heddle program itself")?;
    let instance = &global.instance;
    let cgroup = instance.cgroup(&cgroup2_mount().context("cgroup v2 is not mounted")?);
    let mut options = Options::new(heddle, &instance.to_string(), cgroup);
    options.run_dir = instance.run_dir();
    options.node_name.clone_from(&first.node);
    options.node_addresses = first.node_addresses;
    options.dns_servers = first.dns_servers;
    Ok(Launcher::start(options).await?)
}

/// Waits until the node and every pod of it are ready; says how many those are.
pub(super) async fn all_ready(client: &Client) -> usize {
    loop {
        match client.get::<Status>("/v1/status").await {
            Ok(status) if status.all_ready() => return status.endpoints,
            _ => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// Keeps the launcher's pods to what the agent says, for ever.
pub(super) async fn follow(client: &Client, launcher: Option<&mut Launcher>) {
    let Some(launcher) = launcher else { return std::future::pending().await };
    loop {
        let apply = |line: &str| {
            match serde_json::from_str::<NodePods>(line) {
                Ok(state) => {
                    let pods = state.pods.iter().map(|pod| (**pod).clone());
                    for (pod, errors) in launcher.apply(pods) {
                        errors.iter().for_each(|error| tracing::error!("Pod {pod}: {error}"));
                    }
                }
                Err(error) => tracing::error!("the agent's pods make no sense: {error}"),
            }
            true
        };
        if let Err(error) = client.lines("/v1/pods", apply).await {
            tracing::debug!("{error}");
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
