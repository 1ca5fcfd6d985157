//! `heddle policy check`: reads manifests as the agent would and says of each object whether it is taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use serde::Serialize;

use super::files::{self, FileArgs};
use super::lint;
use super::print_line;
use super::table::printable;
use crate::sources::file::Contents;
use crate::sources::object::{Object, ObjectKey};
use crate::sources::problem::{PlacedFault, Problem, Severity};
use crate::sources::store::Store;
use crate::yaml;

/// Check manifests without an agent: what would be refused, and what is probably not meant.
///
/// Every object is read as the agent reads it. The exit code is 1 if one is refused. Pods among the files let
/// selectors be checked too: one that selects none of them is told of.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle policy check policy.yaml
  heddle policy check ./manifests -o json")]
pub struct Args {
    #[command(flatten)]
    given: FileArgs,
}

/// What `-o json` prints. Stable.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing was refused.
    valid: bool,
    objects: Vec<Checked>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Checked {
    file: PathBuf,
    line: u32,
    column: u32,
    kind: &'static str,
    /// Empty for cluster-wide kinds.
    namespace: String,
    name: String,
    valid: bool,
}

impl Args {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.given.finish(&check(&self.given.files)?)
    }
}

impl super::files::Report for Report {
    fn is_good(&self) -> bool {
        self.valid
    }

    /// One line for each object and each problem, in order of place.
    fn print(&self) {
        let refused = self.objects.iter().filter(|o| !o.valid).count();
        let mut lines = Vec::new();
        for Checked { file, line, kind, namespace, name, .. } in self.objects.iter().filter(|o| o.valid) {
            let slash = if namespace.is_empty() { "" } else { "/" };
            lines.push((
                file,
                *line,
                format!("{}:{line}: ok: {kind} {namespace}{slash}{name}", file.display()),
            ));
        }
        for problem in &self.problems {
            let word = if problem.severity == Severity::Error { "refused" } else { "warning" };
            let text = problem.to_string();
            // The place comes first, as compilers do it.
            let place = text.find(": ").map_or("", |end| &text[..end]);
            let rest = &text[place.len()..];
            lines.push((&problem.file, problem.line, format!("{place}: {word}{rest}")));
        }
        lines.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        lines.iter().for_each(|(_, _, line)| print_line(&printable(line)));
        let warnings = self.problems.iter().filter(|p| p.severity == Severity::Warning).count();
        print_line(&format!("{} objects, {refused} refused, {warnings} warnings", self.objects.len()));
    }
}

fn check(paths: &[PathBuf]) -> anyhow::Result<Report> {
    let mut store = Store::default();
    let mut problems = Vec::new();
    let mut texts = BTreeMap::new();
    let found = files::read(paths);
    problems.extend(
        found.faults.iter().map(|(folder, fault)| Problem::new(Severity::Error, folder, "", fault, "")),
    );
    for (file, text) in found.files {
        let contents = match text {
            Ok(text) => {
                let contents = Contents::read(&file, &text);
                texts.insert(file.clone(), text);
                contents
            }
            Err(reason) => Contents::unreadable(reason),
        };
        store.set_file(&Arc::new(file), contents);
    }
    let objects: BTreeMap<ObjectKey, Object> =
        store.settle().into_iter().filter_map(|(key, object)| Some((key, object?))).collect();
    problems.extend(store.problems());
    let mut parsed: BTreeMap<&Path, Vec<yaml::Document>> = BTreeMap::new();
    for finding in lint::lint(&objects) {
        let Some((file, at)) = store.place(&finding.object) else { continue };
        let text = || texts.get(file).map_or(Vec::new(), |text| yaml::documents(text));
        let position = position(parsed.entry(file).or_insert_with(text), at.line, &finding.fault.path);
        let fault = PlacedFault { at: position.unwrap_or(at), fault: finding.fault };
        let object = finding.object.to_string();
        problems.push(Problem::new(Severity::Warning, file, &object, &fault, ""));
    }
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let objects: Vec<_> = store.claims().into_iter().map(checked).collect();
    if objects.is_empty() && problems.is_empty() {
        bail!(
            "no objects in {}",
            paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(Report { valid: problems.iter().all(|p| p.severity != Severity::Error), objects, problems })
}

fn checked((file, at, key, valid): (&Path, yaml::Position, &ObjectKey, bool)) -> Checked {
    Checked {
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        kind: key.kind.name(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        valid,
    }
}

/// Where a field of the object that begins at `line` stands. `None` for objects of a list.
fn position(documents: &[yaml::Document], line: u32, path: &str) -> Option<yaml::Position> {
    let document = documents.iter().find(|document| document.line == line)?;
    Some(document.position(path))
}

#[cfg(test)]
mod tests;
