//! `heddle status` and the lists: what the agent says, as a table or as its JSON.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::{Table, printable, terminal_columns};
use super::{Global, print_line};
use crate::api::client::Client;
use crate::api::types::{Endpoints, Identities, InForce, Policies, Policy, Services, Status};

/// How often `--wait` asks.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people; on a terminal the widest columns of lists are cut to its width.
    #[default]
    Table,
    /// The same with nothing cut.
    Wide,
    /// The API's document.
    Json,
}

/// `-o`, for every command that prints what the agent knows.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Say whether the node works: revision in force, proxy, endpoints, and everything that is wrong.
///
/// The exit code is 0 if the agent is ready, 1 if it is not or does not answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle status
  heddle status --wait            until every pod is ready too, so that names resolve and services connect
  heddle status -o json | jq .revision
  heddle --instance test status")]
pub struct StatusArgs {
    /// Wait until the node and all of its pods are ready, for so long at most; 1 if they are not.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    wait: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Look at the pods of this node.
#[derive(Debug, clap::Args)]
pub struct EndpointArgs {
    #[command(subcommand)]
    command: List,
}

/// Look at service addresses and their backends.
#[derive(Debug, clap::Args)]
pub struct ServiceArgs {
    #[command(subcommand)]
    command: List,
}

/// Look at security identities and the labels behind them.
#[derive(Debug, clap::Args)]
pub struct IdentityArgs {
    #[command(subcommand)]
    command: List,
}

/// `heddle version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// What its `-o json` prints. Stable.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// Of the maps and pins: agents of one number can take a node over from each other.
    kernel_layout: u32,
}

impl VersionArgs {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let version = Version { version: env!("CARGO_PKG_VERSION"), kernel_layout: abi::ABI_VERSION };
        match self.output.output {
            Output::Json => print_json(&version)?,
            Output::Table | Output::Wide => {
                let Version { version, kernel_layout } = version;
                print_line(&format!("heddle {version} (kernel layout v{kernel_layout})"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Subcommand)]
enum List {
    /// List all of them.
    #[command(
        after_help = "Examples:\n  heddle endpoint list\n  heddle service list -o json\n  heddle identity list"
    )]
    List(OutputArgs),
}

impl StatusArgs {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let (status, good) = match self.wait {
            Some(seconds) => {
                let status = wait(global, Duration::from_secs(seconds.into()))?;
                let good = status.all_ready();
                (status, good)
            }
            None => {
                let status: Status = ask(global, "/v1/status")?;
                let good = status.ready;
                (status, good)
            }
        };
        match self.output.output {
            Output::Json => print_json(&status)?,
            Output::Table | Output::Wide => print_line(status_text(&status).trim_end()),
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl EndpointArgs {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let List::List(output) = self.command;
        list(global, output, "/v1/endpoints", |list: &Endpoints| {
            let mut table =
                Table::new(["ID", "POD", "STATE", "IDENTITY", "ADDRESSES", "INTERFACE", "POLICY", "L7"]);
            for e in &list.endpoints {
                table.row([
                    e.id.to_string(),
                    format!("{}/{}", e.namespace, e.name),
                    e.state.clone(),
                    e.identity.to_string(),
                    joined(&e.addresses),
                    e.interface.clone(),
                    format!("{} entries", e.policy_entries),
                    format!("{} rules", e.l7_rules),
                ]);
            }
            table
        })
    }
}

impl ServiceArgs {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let List::List(output) = self.command;
        list(global, output, "/v1/services", |list: &Services| {
            let mut table = Table::new(["SERVICE", "PORT", "ADDRESS", "PROTOCOL", "LAYER 7", "BACKENDS"]);
            for s in &list.services {
                table.row([
                    format!("{}/{}", s.namespace, s.name),
                    s.port_name.clone(),
                    s.address.to_string(),
                    s.protocol.clone(),
                    if s.l7 { "yes" } else { "no" }.into(),
                    joined(&s.backends),
                ]);
            }
            table
        })
    }
}

impl IdentityArgs {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let List::List(output) = self.command;
        list(global, output, "/v1/identities", |list: &Identities| {
            let mut table = Table::new(["ID", "PODS", "LABELS"]);
            for i in &list.identities {
                table.row([i.id.to_string(), i.pods.join(","), i.labels.join(" ")]);
            }
            table
        })
    }
}

/// `heddle policy list`.
pub fn policies(global: &Global, output: OutputArgs) -> anyhow::Result<ExitCode> {
    list(global, output, "/v1/policies", |list: &Policies| {
        let mut table = Table::new(["KIND", "NAMESPACE", "NAME", "RULES", "STATE"]);
        for p in &list.policies {
            let (kind, namespace, name) = (p.kind.clone(), p.namespace.clone(), p.name.clone());
            table.row([kind, namespace, name, p.rules.to_string(), policy_state(p)]);
        }
        table
    })
}

/// What decides, and why it is not the newest version.
fn policy_state(policy: &Policy) -> String {
    let instead = match (policy.in_force, &policy.since) {
        (InForce::Newest, _) => return "in force".into(),
        (InForce::LastValid, Some(since)) => format!("its last valid version stays in force (since {since})"),
        (InForce::LastValid, None) => "its last valid version stays in force".into(),
        (InForce::Denial, _) => "what it selects is denied in the directions it speaks of".into(),
        (InForce::Nothing, _) => "nothing is enforced by it, since it cannot be told whom it means".into(),
    };
    format!("REFUSED, {instead}: {}", policy.refused.as_deref().unwrap_or_default())
}

/// Asks the agent for one document.
pub fn ask<T: DeserializeOwned>(global: &Global, path: &str) -> anyhow::Result<T> {
    Ok(runtime()?.block_on(Client::new(&global.instance).get(path))?)
}

/// The status once all is ready, or the last one.
fn wait(global: &Global, limit: Duration) -> anyhow::Result<Status> {
    let end = Instant::now() + limit;
    loop {
        match ask::<Status>(global, "/v1/status") {
            Ok(status) if status.all_ready() || Instant::now() >= end => return Ok(status),
            Err(error) if Instant::now() >= end => return Err(error),
            _ => std::thread::sleep(ASK_EVERY),
        }
    }
}

/// The little runtime of a command that asks the agent.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints a document as indented JSON.
pub fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print_line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

fn list<T: DeserializeOwned + Serialize>(
    global: &Global,
    output: OutputArgs,
    path: &str,
    table: impl Fn(&T) -> Table,
) -> anyhow::Result<ExitCode> {
    let elements: T = ask(global, path)?;
    match output.output {
        Output::Json => print_json(&elements)?,
        Output::Table | Output::Wide => {
            let mut table = table(&elements);
            if let Some(columns) = terminal_columns().filter(|_| output.output == Output::Table) {
                table.cut_to(columns);
            }
            if table.is_empty() {
                print_line("none");
            } else {
                print_line(table.to_string().trim_end());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `heddle status` for people.
pub fn status_text(status: &Status) -> String {
    let state = if status.ready { "ready" } else { "NOT READY" };
    let mut text = format!(
        "Instance {} on node {}: {state}, policy revision {} (heddle {}, agent pid {})\n",
        status.instance, status.node, status.revision, status.version, status.agent.pid
    );
    for proxy in &status.proxies {
        let late = if proxy.late { ", LATE" } else { "" };
        text += &format!(
            "Proxy: pid {}, revision {}{late} (heddle {})\n",
            proxy.pid, proxy.revision, proxy.version
        );
    }
    if status.proxies.is_empty() {
        text += "Proxy: none\n";
    }
    text += &format!(
        "Endpoints: {} of {} ready\nService ports: {}\nIdentities: {}\nPolicies: {}, {} of them refused\n",
        status.endpoints_ready,
        status.endpoints,
        status.services,
        status.identities,
        status.policies,
        status.policies_refused
    );
    if !status.problems.is_empty() {
        text += "Problems:\n";
    }
    for problem in &status.problems {
        text += &format!("  {}: {}\n", printable(&problem.object), printable(&problem.message));
    }
    text
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
