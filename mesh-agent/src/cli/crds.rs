//! `heddle crds`: the definitions of the kinds that a cluster must know, as the chart has them.

use std::process::ExitCode;

use super::{Global, print_line};

/// The definitions, in the order in which they are printed.
const DEFINITIONS: [&str; 2] = [
    include_str!("../../../helm/crds/ciliumnetworkpolicies.yaml"),
    include_str!("../../../helm/crds/ciliumclusterwidenetworkpolicies.yaml"),
];

/// Print the CustomResourceDefinitions that Heddle needs in a cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  heddle crds | kubectl apply --server-side -f -")]
pub struct Args {}

impl Args {
    /// Prints them.
    pub fn run(self, _global: &Global) -> anyhow::Result<ExitCode> {
        print_line(&DEFINITIONS.map(str::trim_end).join("\n---\n"));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests;
