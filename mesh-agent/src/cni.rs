//! `heddle cni`: the plugin that a container runtime (or our launcher) starts once for each pod.
//!
//! Follows the CNI specification 1.1: the command comes in `CNI_COMMAND`, the configuration on standard
//! input, the answer goes to standard output. The agent hands out addresses and puts the endpoint's policy
//! into the kernel; the plugin makes the devices ([`link`]). It keeps no state of its own: what it cannot
//! tell the agent waits in a file ([`deletions`]).

mod agent;
mod attach;
mod check;
mod config;
mod deletions;
mod error;
mod link;
mod netns;
mod result;
mod wire;

#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::process::ExitCode;

pub use deletions::{PendingDeletion, pending_deletions};
pub use wire::{
    AllocateRequest, AllocatedAddress, Allocation, ApiError, Attachment, CheckRequest, GcRequest, GcResponse,
    ReadyRequest, monotonic_ms,
};

use crate::cli::Global;
use crate::layout::Instance;
use agent::Agent;
use config::{Command, Config, Environment, Version};
use error::{CniError, code};

/// Longest configuration read from standard input, bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// Connect pods to the mesh: the CNI plugin (spec 1.1), started by a container runtime
///
/// The command comes in CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS or VERSION), the configuration on standard
/// input. Put a link to this program into the runtime's plugin folder and write
/// {"cniVersion": "1.1.0", "name": "heddle", "type": "heddle"} into its configuration folder; "instance"
/// names another instance than `default`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ln -s $(command -v heddle) /opt/cni/bin/heddle
  echo '{\"cniVersion\": \"1.1.0\", \"name\": \"heddle\", \"type\": \"heddle\"}' > /etc/cni/net.d/10-heddle.conf
  CNI_COMMAND=STATUS heddle cni < /etc/cni/net.d/10-heddle.conf    can pods be attached now?")]
pub struct Args {}

impl Args {
    /// Runs one command. The answer, also an error's, is on standard output as the specification wants it.
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let environment = Environment::from_process();
        let mut stdin = Vec::new();
        std::io::stdin().take(CONFIG_MAX + 1).read_to_end(&mut stdin)?;
        let (output, exit) = match answer(&environment, &stdin, &global.instance) {
            Ok(output) => (output, ExitCode::SUCCESS),
            Err((version, error)) => (Some(error.to_json(version)), ExitCode::FAILURE),
        };
        if let Some(output) = output {
            let mut stdout = std::io::stdout().lock();
            serde_json::to_writer(&mut stdout, &output)?;
            stdout.write_all(b"\n")?;
        }
        Ok(exit)
    }
}

/// Whether a runtime started this program as a plugin: without arguments, with a command in the environment.
pub fn started_as_plugin() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some()
}

type Answer = Option<serde_json::Value>;

/// Parses the input and runs the command; an error carries the version to answer in.
fn answer(
    environment: &Environment,
    stdin: &[u8],
    instance: &Instance,
) -> Result<Answer, (Version, CniError)> {
    let newest = Version::NEWEST;
    if stdin.len() as u64 > CONFIG_MAX {
        let details = format!("it has more than {CONFIG_MAX} bytes");
        let msg = "the configuration on standard input is too long";
        return Err((newest, CniError::new(code::DECODE_FAILURE, msg, details)));
    }
    let command = environment.command().map_err(|e| (newest, e))?;
    if command == Command::Version {
        return config::version_answer(stdin).map(Some).map_err(|e| (newest, e));
    }
    let config = Config::parse(stdin, instance).map_err(|e| (newest, e))?;
    let version = config.version;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| (version, CniError::io("starting the runtime", &e)))?;
    runtime.block_on(execute(command, environment, &config)).map_err(|e| (version, e))
}

async fn execute(command: Command, environment: &Environment, config: &Config) -> Result<Answer, CniError> {
    let agent = Agent::new(config.instance.agent_socket());
    match command {
        Command::Add => attach::add(&agent, environment, config).await.map(Some),
        Command::Del => attach::del(&agent, environment, config).await.map(|()| None),
        Command::Check => check::check(&agent, environment, config).await.map(|()| None),
        Command::Gc => {
            config.version.at_least_1_1("GC")?;
            attach::gc(&agent, config).await.map(|()| None)
        }
        Command::Status => {
            config.version.at_least_1_1("STATUS")?;
            agent.status().await.map_err(|e| CniError { code: code::UNAVAILABLE, ..e })?;
            Ok(None)
        }
        Command::Version => unreachable!("answered before"),
    }
}
