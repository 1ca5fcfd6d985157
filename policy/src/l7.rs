//! HTTP policy: what `toPorts.rules.http` says of one request. The proxy and `explain` run the same code.

mod headers;
mod matcher;
mod nearest;
mod pattern;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use abi::Direction;

use matcher::Matcher;
pub use pattern::check as check_pattern;

/// The HTTP rules of one policy rule for a set of peers and ports; plain data, as the proxy is sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct L7RuleSet {
    pub direction: Direction,
    /// Identities of the peers; `None` = any peer.
    pub peers: Option<BTreeSet<u32>>,
    /// Destination ports, first and last, host order. (0, 65535) = any.
    pub ports: (u16, u16),
    /// Number of the rule, see [`crate::CompiledPolicy::rules`].
    pub rule: u32,
    /// Requests that pass, ORed. Empty: this rule has no layer 7 part, so everything passes.
    pub http: Vec<HttpRule>,
}

/// One element of `rules.http`. A field that is absent matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRule {
    /// Regular expressions that must match the whole value.
    pub method: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    /// `headers` and `headerMatches`, all of which must hold.
    pub headers: Vec<HeaderRule>,
}

/// One condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Lower case.
    pub name: String,
    /// `None`: present is enough.
    pub value: Option<String>,
    pub mismatch: MismatchAction,
}

/// What a header that does not match does (`headerMatches[].mismatch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MismatchAction {
    /// The rule does not match.
    #[default]
    Fail,
    /// The request passes and is logged.
    Log,
    /// The request passes with the header added.
    Add,
    /// The request passes without the header.
    Delete,
    /// The request passes with the header's value replaced.
    Replace,
}

/// What policy looks at of a request: canonical values, the very bytes that will be forwarded.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// Path and query, canonical.
    pub path: &'a str,
    /// Host without user info; with the port if the client sent one.
    pub host: &'a str,
    /// Every value of every header, names in lower case.
    pub headers: &'a dyn Headers,
}

/// The headers of a request, whatever holds them.
pub trait Headers: std::fmt::Debug {
    /// Calls `visit` with every value of header `name` (lower case) until it returns false.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool);
}

/// The outcome for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L7Verdict {
    Allow {
        /// The rule that let it pass.
        rule: u32,
        /// Header changes that `headerMatches` asks for, in order.
        actions: Vec<HeaderAction>,
    },
    Deny {
        /// The rule that came nearest, 0 if none speaks about this peer and port.
        nearest: u32,
        /// What of the nearest rule failed, for people: `path "/x" does not match "/public/.*"`.
        why: String,
    },
}

/// A change to the forwarded request that a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderAction {
    Log { name: String },
    Add { name: String, value: String },
    Delete { name: String },
    Replace { name: String, value: String },
}

/// One endpoint's HTTP policy, ready to run: compiled once per configuration, shared by threads.
#[derive(Debug)]
pub struct L7Policy {
    ingress: ports::PortTable,
    egress: ports::PortTable,
}

/// A rule that cannot be compiled (validation should have refused it): everything it covers is denied.
#[derive(Debug, thiserror::Error)]
#[error("rule {rule}: {field}: {reason}")]
pub struct L7Error {
    pub rule: u32,
    pub field: &'static str,
    pub reason: String,
}

impl L7Policy {
    /// Compiles the rule sets of one endpoint. Which of them hold for a peer and port is worked out here,
    /// so that a request costs two lookups and what its own path needs.
    ///
    /// # Errors
    /// An expression that does not compile within the limits.
    pub fn new(rule_sets: &[L7RuleSet]) -> Result<Self, L7Error> {
        let mut compiled = Compiled { sets: rule_sets, matchers: HashMap::new() };
        Ok(Self {
            ingress: ports::PortTable::new(Direction::Ingress, &mut compiled)?,
            egress: ports::PortTable::new(Direction::Egress, &mut compiled)?,
        })
    }

    /// Decides one request of `peer` in `direction` to destination port `port` (host order). The rule sets
    /// for that peer and port are alternatives; where none speaks about them, nothing passes.
    pub fn decide(&self, direction: Direction, peer: u32, port: u16, request: &RequestHead<'_>) -> L7Verdict {
        match self.matcher(direction, peer, port) {
            Some(matcher) => matcher.decide(request),
            None => L7Verdict::Deny { nearest: 0, why: format!("no rule for this peer allows port {port}") },
        }
    }

    /// Whether everything passes for this peer and port, whatever the request: then it need not be parsed
    /// for the policy's sake.
    pub fn allows_all(&self, direction: Direction, peer: u32, port: u16) -> bool {
        self.matcher(direction, peer, port).is_some_and(Matcher::allows_all)
    }

    fn matcher(&self, direction: Direction, peer: u32, port: u16) -> Option<&Matcher> {
        match direction {
            Direction::Ingress => self.ingress.find(peer, port),
            Direction::Egress => self.egress.find(peer, port),
        }
    }
}

/// Rule sets while they are compiled; equal combinations share a matcher.
#[derive(Debug)]
struct Compiled<'a> {
    sets: &'a [L7RuleSet],
    /// By the indices of the sets.
    matchers: HashMap<Vec<usize>, Arc<Matcher>>,
}

impl Compiled<'_> {
    fn matcher(&mut self, sets: Vec<usize>) -> Result<Arc<Matcher>, L7Error> {
        if let Some(matcher) = self.matchers.get(&sets) {
            return Ok(matcher.clone());
        }
        let matcher = Arc::new(Matcher::new(sets.iter().map(|i| &self.sets[*i]))?);
        self.matchers.insert(sets, matcher.clone());
        Ok(matcher)
    }
}
