//! `heddle uninstall`: takes everything of an instance off the node, after its agent and proxy have ended.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::agent::args::PROXY_UID;
use crate::agent::cni_files::CniFiles;
use crate::api::client::Client;
use crate::api::types::Status;
use crate::cli::Global;

/// Take everything off this node: the CNI plugin, programs, maps, rules, routes, cgroup and state.
///
/// Agent and proxy must have ended. Pods that still run lose their network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  heddle uninstall\n  heddle --instance test uninstall")]
pub struct Args {
    /// Folder of the runtime's CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Folder of the runtime's CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// User and group of the proxy.
    #[arg(long, default_value_t = PROXY_UID)]
    uid: u32,
}

impl Args {
    /// Removes what is there; what is not is gone already.
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let instance = &global.instance;
            if let Ok(status) = Client::new(instance).get::<Status>("/v1/status").await {
                bail!("the agent of instance {instance} runs (pid {}): end it first", status.agent.pid);
            }
            CniFiles::new(&self.cni_bin_dir, &self.cni_conf_dir, instance).remove()?;
            crate::run::remove_everything(instance, self.uid).await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
