//! `cargo xtask demo`: the example shop in a network namespace of its own, and a tour of what Heddle does with
//! its traffic. Every step says what it does and what must come of it, and is checked.

mod node;
mod tour;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use crate::host;
use node::Node;

/// Programs that the demo drives, and the Debian packages they come in.
const PROGRAMS: &[(&str, &str)] =
    &[("curl", "curl"), ("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")];

/// Set by Ctrl-C: the tour ends at the next step, and everything is removed as at its end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

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
        on_interrupt()?;
        let node = Node::start(&host::target_dir()?.join("debug"))?;
        let result = tour::run(&node);
        if self.keep && result.is_ok() {
            node.print_what_to_try();
            while !INTERRUPTED.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        let failed = result.is_err();
        if failed {
            eprintln!("{}", node.log());
        }
        node.stop()?;
        result
    }
}

/// From now on SIGINT and SIGTERM are taken by a thread of their own. (Blocked here, and so in threads; the
/// standard library gives children an empty mask again.)
fn on_interrupt() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
            eprintln!("\ninterrupted: removing everything");
        }
    });
    Ok(())
}

/// Fails once Ctrl-C was pressed.
fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
