//! `heddle exec`: runs a command where a pod's processes are, like `kubectl exec`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, bail};
use launcher::exec::PodExec;

use crate::cli::Global;

/// Run a command inside a pod that this machine runs
///
/// The command gets the pod's network, files, environment and privileges.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle exec shop/web -- curl -s http://orders/
  heddle exec shop/web -c server -- sh")]
pub struct Args {
    /// The pod as NAMESPACE/NAME; without a namespace it is `default`.
    pod: String,
    /// The container; without it the pod's first.
    #[arg(short, long)]
    container: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Args {
    /// Becomes the command; comes back only if it cannot be executed.
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if !nix::unistd::geteuid().is_root() {
            bail!("entering a pod needs root");
        }
        let (namespace, name) = self.pod.split_once('/').unwrap_or(("default", &self.pod));
        let run_dir = global.instance.run_dir();
        let spec = launcher::exec::find_spec(&run_dir, namespace, name, self.container.as_deref())
            .with_context(|| format!("pods of instance {} are in {}", global.instance, run_dir.display()))?;
        become_command(&PodExec { spec, same_session: true, command: self.command })
    }
}

/// Runs `heddle pod-exec`.
pub fn become_command(exec: &PodExec) -> anyhow::Result<ExitCode> {
    let status = exec.run()?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
