//! The project's own commands: `cargo xtask <command>`. Each installs what it needs and says what it does.

mod bench;
mod bpf;
mod demo;
mod host;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Test(test::Test),
    Bench(bench::Bench),
    Bpf(bpf::Bpf),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Bpf(command) => command.run(),
    }
}
