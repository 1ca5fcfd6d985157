//! `heddle policy test`: runs policy test cases, small clusters with questions and the answers they want.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use policy::cases::{self, CaseResult, QueryResult};
use serde::Serialize;

use super::files::{self, FileArgs};
use super::print_line;
use super::table::printable;
use crate::yaml;

/// Run policy tests: cases of pods, policies and queries, each with the verdict it wants.
///
/// The verdicts come from the code that kernel and proxy run. The exit code is 1 if one differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle policy test cases.yaml
  heddle policy test tests/*.yaml -o json

A case:
  name: only the shop may ask
  endpoints:
    - {name: shop, labels: {app: shop}}
    - {name: api, labels: {app: api}}
  policies:
    - apiVersion: cilium.io/v2
      kind: CiliumNetworkPolicy
      metadata: {name: api}
      spec:
        endpointSelector: {matchLabels: {app: api}}
        ingress:
          - fromEndpoints: [{matchLabels: {app: shop}}]
            toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{method: GET}]}}]
  queries:
    - {from: shop, to: api, port: 80, want: redirect}
    - {from: shop, to: api, port: 80, http: {method: POST, path: /}, wantL7: deny}
    - {from: 203.0.113.9, to: api, port: 80, want: deny}")]
pub struct Args {
    #[command(flatten)]
    given: FileArgs,
}

/// What `-o json` prints. Stable.
#[derive(Debug, Serialize)]
struct Report {
    passed: bool,
    cases: Vec<Case>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    file: PathBuf,
    line: u32,
    name: String,
    passed: bool,
    /// Why the case could not be run.
    error: Option<String>,
    /// Policies that were refused, each with the reason.
    refused: Vec<String>,
    queries: Vec<Query>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Query {
    name: String,
    passed: bool,
    want: Option<String>,
    got: String,
    want_l7: Option<String>,
    got_l7: Option<String>,
    why: Vec<String>,
}

impl Args {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.given.finish(&test(&self.given.files))
    }
}

impl super::files::Report for Report {
    fn is_good(&self) -> bool {
        self.passed
    }

    fn print(&self) {
        for case in &self.cases {
            let word = if case.passed { "ok  " } else { "FAIL" };
            let Case { name, line, queries, .. } = case;
            let place = format!("{}:{line}", case.file.display());
            print_line(&printable(&format!("{word} {place}: {name} ({} queries)", queries.len())));
            if case.passed {
                continue;
            }
            let mut lines: Vec<String> = case.error.iter().map(|error| format!("error: {error}")).collect();
            lines.extend(case.refused.iter().map(|refused| format!("refused: {refused}")));
            for query in queries.iter().filter(|q| !q.passed) {
                lines.push(query.difference());
                lines.extend(query.why.iter().map(|why| format!("  {why}")));
            }
            lines.iter().for_each(|line| print_line(&format!("     {}", printable(line))));
        }
        let failed = self.cases.iter().filter(|c| !c.passed).count();
        print_line(&format!("{} cases, {failed} failed", self.cases.len()));
    }
}

impl Query {
    /// `a -> b TCP 80: want allow, got deny`.
    fn difference(&self) -> String {
        let mut parts = Vec::new();
        let any = "any".to_owned();
        if self.want.as_ref() != Some(&self.got) {
            parts.push(format!("want {}, got {}", self.want.as_ref().unwrap_or(&any), self.got));
        }
        if self.want_l7.is_some() && self.want_l7 != self.got_l7 {
            let none = "none".to_owned();
            let (want, got) = (self.want_l7.as_ref().unwrap_or(&any), self.got_l7.as_ref().unwrap_or(&none));
            parts.push(format!("want layer 7 {want}, got {got}"));
        }
        format!("{}: {}", self.name, parts.join("; "))
    }
}

fn test(paths: &[PathBuf]) -> Report {
    let found = files::read(paths);
    let faults = found.faults.into_iter();
    let mut all: Vec<_> = faults.map(|(folder, fault)| failed(&folder, 0, fault.fault.reason)).collect();
    for (file, text) in found.files {
        match text {
            Ok(text) => all.extend(cases_of(&file, &text)),
            Err(reason) => all.push(failed(&file, 0, reason)),
        }
    }
    Report { passed: all.iter().all(|case| case.passed), cases: all }
}

fn cases_of(file: &Path, text: &str) -> Vec<Case> {
    let documents = yaml::documents(text);
    if documents.is_empty() {
        return vec![failed(file, 0, "no cases".to_owned())];
    }
    documents
        .iter()
        .map(|document| match &document.content {
            Err(error) => failed(file, error.at.line, format!("not valid YAML: {}", error.reason)),
            Ok(value) => match cases::run(value) {
                Ok(result) => case(file, document.line, &result),
                Err(error) => {
                    let line = match &error {
                        cases::CaseError::Invalid { path, .. } => document.position(path).line,
                        _ => document.line,
                    };
                    let name = value.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
                    Case { name: name.to_owned(), ..failed(file, line, error.to_string()) }
                }
            },
        })
        .collect()
}

fn failed(file: &Path, line: u32, error: String) -> Case {
    Case {
        file: file.to_owned(),
        line,
        name: String::new(),
        passed: false,
        error: Some(error),
        refused: Vec::new(),
        queries: Vec::new(),
    }
}

fn case(file: &Path, line: u32, result: &CaseResult) -> Case {
    let refused = result.policies.iter().filter_map(|policy| {
        let slash = if policy.namespace.is_empty() { "" } else { "/" };
        let reason = policy.refused.as_ref()?;
        Some(format!("{} {}{slash}{}: {reason}", policy.kind, policy.namespace, policy.name))
    });
    Case {
        file: file.to_owned(),
        line,
        name: result.name.clone(),
        passed: result.passed(),
        error: None,
        refused: refused.collect(),
        queries: result.queries.iter().map(query).collect(),
    }
}

fn query(result: &QueryResult) -> Query {
    let sides = result.explanation.iter().flat_map(|e| e.egress.iter().chain(&e.ingress));
    Query {
        name: result.name.clone(),
        passed: result.passed(),
        want: result.want.clone(),
        got: result.verdict.clone(),
        want_l7: result.want_l7.clone(),
        got_l7: result.l7_verdict.clone(),
        why: result.error.iter().cloned().chain(sides.map(ToString::to_string)).collect(),
    }
}

#[cfg(test)]
mod tests;
