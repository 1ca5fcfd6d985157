//! `cargo xtask test`: every test of the workspace, the privileged ones in network namespaces included.

use anyhow::Result;
use clap::Args;

use crate::host;

/// Programs that the tests drive, and the Debian packages they come in.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
];

/// Build everything and run every test: unit tests, kernel program tests, real traffic in network namespaces.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --lint\n  cargo xtask test -- --test http_policy"
)]
pub(crate) struct Test {
    /// Check formatting and clippy first.
    #[arg(long)]
    lint: bool,
    /// More arguments for `cargo test`, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Test {
    /// Runs the steps in order; the first that fails ends it.
    pub(crate) fn run(&self) -> Result<()> {
        host::require_root("cargo xtask test")?;
        host::install(PROGRAMS)?;
        if self.lint {
            host::step("check formatting", host::cargo().args(["fmt", "--all", "--check"]))?;
            let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny=warnings"];
            host::step("clippy", host::cargo().args(clippy))?;
        }
        // The suites drive the built programs, which `cargo test` alone would not build.
        host::step("build the programs", host::cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        let mut tests = host::cargo();
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(&self.arguments);
        host::step("run the tests", &mut tests)
    }
}
