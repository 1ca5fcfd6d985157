//! Files named on the command line, for the commands that read them without an agent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::show::{Output, OutputArgs, print_json};
use crate::sources::directory;
use crate::sources::problem::PlacedFault;

/// What to read and how to print.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// Files, or folders of .yaml, .yml and .json files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The files behind names.
#[derive(Debug, Default)]
pub struct Found {
    /// Each once, with its text or why it cannot be read.
    pub files: Vec<(PathBuf, Result<String, String>)>,
    /// Folders that cannot be read.
    pub faults: Vec<(PathBuf, PlacedFault)>,
}

/// A report on files.
pub trait Report: Serialize {
    /// Whether nothing is wrong.
    fn is_good(&self) -> bool;
    /// Prints it for people.
    fn print(&self);
}

impl FileArgs {
    /// Prints the report; the exit code is 1 if something is wrong.
    pub fn finish(&self, report: &impl Report) -> anyhow::Result<ExitCode> {
        match self.output.output {
            Output::Json => print_json(report)?,
            Output::Table | Output::Wide => report.print(),
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Reads what the names stand for, in their order.
pub fn read(names: &[PathBuf]) -> Found {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for name in names {
        let (files, faults) =
            if name.is_dir() { directory::files_below(name) } else { (vec![name.clone()], vec![]) };
        found.faults.extend(faults);
        for file in files {
            if seen.insert(file.clone()) {
                let text = directory::read_text(&file);
                found.files.push((file, text));
            }
        }
    }
    found
}
