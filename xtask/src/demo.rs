//! `cargo xtask demo`: the example shop in a network namespace of its own, and a tour of what Heddle does with
//! its traffic. Every step says what it does and what must come of it, and is checked.

mod node;
mod tour;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::host;
use node::Node;

/// Programs that the demo drives, and the Debian packages they come in.
const PROGRAMS: &[(&str, &str)] =
    &[("curl", "curl"), ("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")];

/// Set by Ctrl-C: the tour ends at the next step, and everything is removed as at its end.
#[derive(Clone, Debug, Default)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes SIGINT and SIGTERM from now on.
    fn catch() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, interrupt.0.clone())?;
        }
        Ok(interrupt)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails once Ctrl-C was pressed.
    fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Run the example shop and a tour through its traffic: allowed, denied, and why.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --keep")]
pub(crate) struct Demo {
    /// Leave the shop running after the tour, until Ctrl-C, and print commands to try.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Builds, starts, tours, removes. Fails if any step differs from what it says.
    pub(crate) fn run(&self) -> Result<()> {
        host::require_root("cargo xtask demo")?;
        host::install(PROGRAMS)?;
        // The same selection as `cargo xtask test`, so that nothing is built twice.
        host::step("build the programs", host::cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        let interrupt = Interrupt::catch()?;
        let node = Node::start(&host::target_dir()?.join("debug"), interrupt.clone())?;
        // Ctrl-C reaches the programs of a step, too: what fails then has failed of it.
        let result = tour::run(&node).or_else(|error| interrupt.check().and(Err(error)));
        if self.keep && result.is_ok() {
            node.print_what_to_try();
            while !interrupt.is_set() {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        if result.is_err() && !interrupt.is_set() {
            eprintln!("{}", node.log());
        }
        node.stop()?;
        result
    }
}
