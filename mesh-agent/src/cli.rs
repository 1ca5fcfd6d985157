//! The command line: one subcommand each, parsed by clap. A subcommand is a struct of arguments with a
//! `run` that says how the process ends; none starts a thread before its `run`, since `heddle proxy` must
//! drop its privileges while it has just one.

pub mod check;
pub mod crds;
pub mod files;
pub mod flows;
pub mod lint;
pub mod offline;
pub mod policy;
pub mod show;
pub mod table;
pub mod test_cases;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;

use clap::{CommandFactory, Parser, Subcommand};

use crate::layout::Instance;

/// What a shell reports of a program that SIGPIPE ended.
const EXIT_BROKEN_PIPE: i32 = 128 + 13;

/// Sidecarless service mesh: eBPF steers just the connections that need layer 7 into one node proxy.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Which node of this machine: separates run folder, pins, cgroup and state.
    #[arg(long, global = true, default_value = "default", env = "HEDDLE_INSTANCE")]
    pub instance: Instance,
    /// What goes to the log on standard error, such as `info` or `mesh_agent=debug,warn`.
    #[arg(long, global = true, default_value = "info", env = "HEDDLE_LOG", value_name = "FILTER")]
    pub log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    // One line for each subcommand: `Name(module::Args)`, in the order of the help.
    Run(crate::run::Args),
    Agent(crate::agent::Args),
    Cni(crate::cni::Args),
    Proxy(crate::proxy_cmd::Args),
    Dns(crate::dns::Args),
    Exec(crate::exec::Args),
    #[command(hide = true)]
    PodExec(launcher::exec::PodExec),
    Status(show::StatusArgs),
    Endpoint(show::EndpointArgs),
    Service(show::ServiceArgs),
    Identity(show::IdentityArgs),
    Policy(policy::Args),
    Flows(flows::Args),
    Crds(crds::Args),
    Uninstall(crate::uninstall::Args),
    /// Print a shell's completions.
    #[command(
        after_help = "Examples:\n  heddle completions bash > /etc/bash_completion.d/heddle\n  heddle completions zsh > ~/.zfunc/_heddle"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version of the program and of the layout that it shares with the kernel programs.
    #[command(after_help = "Examples:\n  heddle version\n  heddle version -o json | jq -r .version")]
    Version(show::VersionArgs),
}

/// Parses the command line, runs the subcommand, prints its error.
pub fn main() -> ExitCode {
    let cli = if crate::cni::started_as_plugin() { Cli::parse_from(["heddle", "cni"]) } else { Cli::parse() };
    match init_log(&cli.global.log).and_then(|()| dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line to standard output. A reader that has gone away (`heddle flows | head`) ends the program
/// quietly, as SIGPIPE would.
pub(crate) fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(EXIT_BROKEN_PIPE);
    }
}

/// Prints an error for a person to standard error; nobody left to read it is no reason to panic.
pub(crate) fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "heddle: {text}");
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // One line for each subcommand: `Command::Name(args) => args.run(&cli.global)`.
    match cli.command {
        Command::Run(args) => args.run(&cli.global),
        Command::Agent(args) => args.run(&cli.global),
        Command::Cni(args) => args.run(&cli.global),
        Command::Proxy(args) => args.run(&cli.global),
        Command::Dns(args) => args.run(&cli.global),
        Command::Exec(args) => args.run(&cli.global),
        Command::PodExec(args) => crate::exec::become_command(&args),
        Command::Status(args) => args.run(&cli.global),
        Command::Endpoint(args) => args.run(&cli.global),
        Command::Service(args) => args.run(&cli.global),
        Command::Identity(args) => args.run(&cli.global),
        Command::Policy(args) => args.run(&cli.global),
        Command::Flows(args) => args.run(&cli.global),
        Command::Crds(args) => args.run(&cli.global),
        Command::Uninstall(args) => args.run(&cli.global),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "heddle", &mut script);
            print_line(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Version(args) => args.run(),
    }
}

fn init_log(filter: &str) -> anyhow::Result<()> {
    // What the library that watches files tells at `info` is of no use to a node's owner. A filter of the
    // user's that names it comes later and wins.
    let quiet = format!("notify=warn,{filter}");
    let filter = tracing_subscriber::EnvFilter::try_new(quiet).with_context(|| {
        format!("--log {filter:?} is no filter: use a level such as `info`, or `mesh_agent=debug,warn`")
    })?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        // A closed standard error must not become a panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}
