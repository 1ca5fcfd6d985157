//! `heddle policy`: list, check, test, explain.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::Global;
use super::show::{Output, OutputArgs, policies, print_json, runtime};
use super::table::printable;
use super::{print_error, print_line};
use crate::api::client::Client;
use crate::api::types::{ExplainHttp, ExplainRequest};
use crate::explain::Answer;

/// List policies, check and test files, explain verdicts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the policies in force, and why others were refused.
    #[command(after_help = "Examples:\n  heddle policy list\n  heddle policy list -o json")]
    List(OutputArgs),
    Check(super::check::Args),
    Test(super::test_cases::Args),
    Explain(ExplainArgs),
}

/// Say what would become of a connection or request, by which rule, or what came nearest.
///
/// Runs the code that kernel and proxy run, on the running agent's state or, with --manifests, on a
/// directory alone. The exit code is 0 if it would pass, 1 if it would be denied.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle policy explain --from shop/web --to shop/api --port 80
  heddle policy explain --from shop/web --to shop/api --port 80 --method POST --path /orders \\
      --host api --header 'X-User: 7'
  heddle policy explain --from world --to shop/web --port 443 --manifests ./shop")]
struct ExplainArgs {
    /// Who begins: namespace/pod, an address, or an entity such as world.
    #[arg(long)]
    from: String,
    /// To whom: the same, or namespace/service; `svc/` or `pod/` before it says which, if both have the name.
    #[arg(long)]
    to: String,
    /// Destination port; for ICMP the type.
    #[arg(long)]
    port: u16,
    /// TCP, UDP, SCTP, ICMPv4 or ICMPv6.
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// Ask about a request too.
    #[arg(long)]
    method: Option<String>,
    /// Path of the request, with its query.
    #[arg(long)]
    path: Option<String>,
    /// Host of the request.
    #[arg(long)]
    host: Option<String>,
    /// A header of the request, `Name: value`. May be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Without an agent: these manifests alone.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::List(output) => policies(global, *output),
            Command::Check(args) => args.run(),
            Command::Test(args) => args.run(),
            Command::Explain(args) => args.run(global),
        }
    }
}

impl ExplainArgs {
    fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let question = self.question();
        let answer: Answer = match &self.manifests {
            Some(dir) => {
                let (snapshot, problems) = super::offline::read(dir)?;
                problems.iter().for_each(|problem| print_error(&printable(&problem.to_string())));
                let compiled = policy::compile(&snapshot);
                crate::explain::explain(&snapshot, &compiled, &question).map_err(anyhow::Error::msg)?
            }
            None => runtime()?.block_on(Client::new(&global.instance).post("/v1/explain", &question))?,
        };
        match self.output.output {
            Output::Json => print_json(&answer)?,
            Output::Table | Output::Wide => answer.text.lines().for_each(|line| print_line(&printable(line))),
        }
        Ok(if answer.verdict == "deny" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Any part of a request makes it a question about one; what is left out is what curl would send.
    fn question(&self) -> ExplainRequest {
        let asked =
            self.method.is_some() || self.path.is_some() || self.host.is_some() || !self.headers.is_empty();
        // As curl does: a Host among the headers is the host, unless it is given too.
        let is_host = |name: &str| self.host.is_none() && name.eq_ignore_ascii_case("host");
        let (hosts, headers): (Vec<_>, Vec<_>) =
            self.headers.iter().cloned().partition(|(name, _)| is_host(name));
        let to = || self.to.rsplit('/').next().unwrap_or_default().to_owned();
        let host = || hosts.into_iter().next().map_or_else(to, |(_, value)| value);
        ExplainRequest {
            from: self.from.clone(),
            to: self.to.clone(),
            port: self.port,
            protocol: self.protocol.clone(),
            request: asked.then(|| ExplainHttp {
                method: self.method.clone().unwrap_or_else(|| "GET".into()),
                path: self.path.clone().unwrap_or_else(|| "/".into()),
                host: self.host.clone().unwrap_or_else(host),
                headers,
            }),
        }
    }
}

/// `Name: value`, as curl takes it.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    if name.trim().is_empty() {
        return Err("the name is missing".into());
    }
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
