//! Policy tests: small clusters with policies and questions about flows, as `heddle policy test` runs them.
//!
//! The format is that of the oracle (a program over Cilium's own code), so that the same file can be put
//! to both. Reading YAML is the caller's business.

mod build;
mod raw;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::explain::{Explanation, HttpQuery, Outcome, Query, explain};
use crate::{compile, proto_number};

use raw::{RawCase, RawQuery};

/// The outcome of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    pub name: String,
    pub policies: Vec<PolicyResult>,
    pub queries: Vec<QueryResult>,
}

impl CaseResult {
    /// Whether every query came out as wanted.
    pub fn passed(&self) -> bool {
        self.queries.iter().all(QueryResult::passed)
    }
}

/// What became of one policy of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyResult {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Why it was refused.
    pub refused: Option<String>,
}

/// The outcome of one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryResult {
    /// Its name, or the query in short.
    pub name: String,
    /// `allow`, `deny`, `redirect`; `error` if the query could not be answered.
    pub verdict: String,
    /// `allow` or `deny`, if a request was asked about.
    pub l7_verdict: Option<String>,
    pub want: Option<String>,
    pub want_l7: Option<String>,
    /// Denied by a policy that was refused. `want: error` is what a case says for that.
    pub refused: bool,
    pub error: Option<String>,
    pub explanation: Option<Explanation>,
}

impl QueryResult {
    /// Whether it came out as wanted; a query that wants nothing passes if it was answered.
    pub fn passed(&self) -> bool {
        let verdict = match self.want.as_deref() {
            None => self.verdict != "error",
            Some("error") => self.refused || self.verdict == "error",
            Some(want) => want == self.verdict,
        };
        verdict && self.want_l7.as_ref().is_none_or(|want| self.l7_verdict.as_ref() == Some(want))
    }
}

/// A case that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    #[error("{path}: {reason}")]
    Invalid { path: String, reason: String },
    #[error("config.{0} is not supported")]
    Unsupported(&'static str),
}

/// Runs one document.
///
/// # Errors
/// It is no case, or needs a setting that is not supported.
pub fn run(document: &Value) -> Result<CaseResult, CaseError> {
    let case: RawCase = serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        CaseError::Invalid { path, reason: error.into_inner().to_string() }
    })?;
    let built = build::build(&case)?;
    let compiled = compile(&built.snapshot);
    let answer = |(i, raw): (usize, &RawQuery)| -> Result<QueryResult, CaseError> {
        let query = query(raw, i)?;
        let outcome = explain(&built.snapshot, &compiled, &query);
        Ok(result(raw, &query, outcome.map_err(|error| error.to_string())))
    };
    let queries: Result<_, _> = case.queries.iter().enumerate().map(answer).collect();
    Ok(CaseResult { name: case.name, policies: built.policies, queries: queries? })
}

fn query(raw: &RawQuery, index: usize) -> Result<Query, CaseError> {
    let name = raw.protocol.as_deref().unwrap_or("TCP");
    let proto = proto_number(name).ok_or_else(|| CaseError::Invalid {
        path: format!("queries[{index}].protocol"),
        reason: format!("{name:?} is not one of TCP, UDP, SCTP, ICMP, ICMPv6"),
    })?;
    let http = raw.http.as_ref().map(|http| HttpQuery {
        method: http.method.clone(),
        path: http.path.clone(),
        host: http.host.clone(),
        headers: http.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
    });
    Ok(Query { from: raw.from.clone(), to: raw.to.clone(), proto, port: raw.port, http })
}

fn result(raw: &RawQuery, query: &Query, outcome: Result<Explanation, String>) -> QueryResult {
    let proto = crate::proto_name(query.proto);
    let short = format!("{} -> {} {proto} {}", query.from, query.to, query.port);
    let (explanation, error) = match outcome {
        Ok(explanation) => (Some(explanation), None),
        Err(error) => (None, Some(error)),
    };
    let sides = || explanation.iter().flat_map(|e| e.egress.iter().chain(&e.ingress));
    let l7 = explanation.as_ref().and_then(|e| e.http_allowed);
    // No rule speaks about DNS yet: a flow that is denied denies its queries too.
    let dns = raw.dns.as_ref().and(explanation.as_ref()).map(|e| e.outcome == Outcome::Allow);
    QueryResult {
        name: raw.name.clone().unwrap_or(short),
        verdict: explanation.as_ref().map_or("error", |e| e.outcome.name()).to_owned(),
        l7_verdict: l7.or(dns).map(|allowed| if allowed { "allow" } else { "deny" }.to_owned()),
        want: raw.want.clone(),
        want_l7: raw.want_l7.clone(),
        refused: sides().any(|s| s.refused),
        error,
        explanation: explanation.clone(),
    }
}
