//! Why a flow passes or not: asks [`abi::decide`] and [`L7Policy`] the way kernel and proxy do, and names
//! the rule, or what came nearest.

mod denial;
mod nearest;
mod party;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::{Direction, DropReason, Verdict, decide, proto};

use crate::compiled::{CompiledPolicy, RuleRef};
use crate::l7::{HeaderAction, Headers, L7Policy, L7Verdict, RequestHead};
use crate::model::BUILT_IN;
use crate::snapshot::{Endpoint, Snapshot};

pub use denial::Selecting;
pub use party::{Party, PartyError};

/// A question about the first packet of a flow and, with `http`, one request on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// `namespace/name` of a pod (`default/` may be left out), `entity:NAME`, or an address.
    pub from: String,
    /// The same; a service's address stands for its first ready backend.
    pub to: String,
    /// IANA protocol number.
    pub proto: u8,
    /// Destination port; for ICMP the type.
    pub port: u16,
    pub http: Option<HttpQuery>,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpQuery {
    pub method: String,
    /// With the query string.
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
}

impl Headers for HttpQuery {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        let own = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        for (_, value) in own {
            if !visit(value.as_bytes()) {
                break;
            }
        }
    }
}

/// What one or both sides say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Allow,
    /// Allowed at layers 3 and 4, and the proxy decides on each request.
    Redirect,
    Deny,
}

impl Outcome {
    /// `allow`, `redirect` or `deny`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Redirect => "redirect",
            Self::Deny => "deny",
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub from: Party,
    pub to: Party,
    pub proto: u8,
    /// The port that was decided on: behind a service the backend's.
    pub port: u16,
    /// Set if `to` was a service's address.
    pub service: Option<ServiceHop>,
    /// The stricter of the two sides.
    pub outcome: Outcome,
    /// The request's fate, if one was asked about: allowed by both sides.
    pub http_allowed: Option<bool>,
    /// The source's egress policy; `None` if the source is no pod of this node.
    pub egress: Option<Side>,
    /// The destination's ingress policy; `None` if the destination is no pod of this node.
    pub ingress: Option<Side>,
}

/// How a service's address was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHop {
    /// `namespace/name`.
    pub service: String,
    pub backend: SocketAddr,
    /// Ready backends; the proxy decides anew for each that it chooses.
    pub backends: usize,
}

/// What one endpoint's policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub direction: Direction,
    /// `namespace/name` of the pod whose policy it is.
    pub endpoint: String,
    /// Identity of the peer that the policy was asked about.
    pub peer: u32,
    pub outcome: Outcome,
    /// Set if denied.
    pub reason: Option<DropReason>,
    /// Number of the deciding rule, 0 = none.
    pub rule: u32,
    pub rule_ref: Option<RuleRef>,
    /// Whether a refused policy denies it.
    pub refused: bool,
    /// If no rule matched and that denies: the policies that turned default deny on, in the order of kind,
    /// namespace and name.
    pub closed_by: Vec<RuleRef>,
    /// For people: what would have allowed a similar flow, if no rule matched.
    pub nearest: Option<String>,
    /// What layer 7 says, if it was asked.
    pub http: Option<HttpSide>,
}

/// What one endpoint's layer 7 rules say of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSide {
    pub allowed: bool,
    /// The rule that allows it or came nearest.
    pub rule: u32,
    pub rule_ref: Option<RuleRef>,
    /// Why it is denied.
    pub why: Option<String>,
    /// Changes to the request that rules ask for.
    pub actions: Vec<HeaderAction>,
}

/// Answers a query.
///
/// # Errors
/// `from` or `to` names nothing that is known.
pub fn explain(
    snapshot: &Snapshot,
    compiled: &CompiledPolicy,
    query: &Query,
) -> Result<Explanation, PartyError> {
    let mut family = Family::of(query);
    let (service, to_text, port) = match party::service(compiled, query) {
        Some(hop) => (Some(hop.clone()), hop.backend.ip().to_string(), hop.backend.port()),
        None => (None, query.to.clone(), query.port),
    };
    family.narrow(snapshot, &query.from);
    family.narrow(snapshot, &to_text);
    let from = Party::find(snapshot, compiled, &query.from, family.v4)?;
    let to = Party::find(snapshot, compiled, &to_text, family.v4)?;
    let ask = Ask { snapshot, compiled, query, port };
    let egress = ask.side(Direction::Egress, &from, &to)?;
    let ingress = ask.side(Direction::Ingress, &to, &from)?;
    let sides = || egress.iter().chain(&ingress);
    let outcome = sides().map(|s| s.outcome).max().unwrap_or(Outcome::Allow);
    let http_allowed = query.http.as_ref().map(|_| {
        sides().all(|s| match s.outcome {
            Outcome::Allow => true,
            Outcome::Redirect => s.http.as_ref().is_some_and(|h| h.allowed),
            Outcome::Deny => false,
        })
    });
    Ok(Explanation { from, to, proto: query.proto, port, service, outcome, http_allowed, egress, ingress })
}

/// The address family of a flow.
#[derive(Clone, Copy, Debug)]
struct Family {
    v4: bool,
    fixed: bool,
}

impl Family {
    fn of(query: &Query) -> Self {
        match query.proto {
            proto::ICMPV6 => Self { v4: false, fixed: true },
            proto::ICMP => Self { v4: true, fixed: true },
            _ => Self { v4: true, fixed: false },
        }
    }

    /// An address, or a pod with addresses of one family only, settles it.
    fn narrow(&mut self, snapshot: &Snapshot, text: &str) {
        if self.fixed {
            return;
        }
        let addresses = match text.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => party::endpoint(snapshot, text).map(|e| e.addresses.clone()).unwrap_or_default(),
        };
        let v4 = addresses.iter().any(IpAddr::is_ipv4);
        let v6 = addresses.iter().any(IpAddr::is_ipv6);
        if v4 != v6 {
            *self = Self { v4, fixed: true };
        }
    }
}

/// A query with all that it is answered from.
struct Ask<'a> {
    snapshot: &'a Snapshot,
    compiled: &'a CompiledPolicy,
    query: &'a Query,
    port: u16,
}

impl Ask<'_> {
    fn side(&self, direction: Direction, own: &Party, peer: &Party) -> Result<Option<Side>, PartyError> {
        let Some(name) = &own.endpoint else { return Ok(None) };
        let Some(endpoint) = self.snapshot.endpoints.get(name) else { return Ok(None) };
        let Some(policy) = self.compiled.endpoints.get(&endpoint.id) else { return Ok(None) };
        let proto = self.query.proto;
        let decision = decide(&policy.entries, peer.identity, direction, proto, self.port);
        let (outcome, reason) = match decision.verdict {
            Verdict::Allow => (Outcome::Allow, None),
            Verdict::Redirect { .. } => (Outcome::Redirect, None),
            Verdict::Drop(reason) => (Outcome::Deny, Some(reason)),
        };
        let rule_ref = self.compiled.rules.get(&decision.rule).cloned();
        let unmatched = (decision.rule == 0 && outcome == Outcome::Deny)
            .then(|| Selecting::new(self.snapshot, Arc::clone(endpoint), direction));
        let nearest = unmatched.as_ref().and_then(|s| s.nearest(self.snapshot, peer, proto, self.port));
        let http = match (&self.query.http, outcome) {
            (Some(http), Outcome::Redirect) => Some(self.http(endpoint, direction, peer.identity, http)?),
            _ => None,
        };
        Ok(Some(Side {
            direction,
            endpoint: name.clone(),
            peer: peer.identity,
            outcome,
            reason,
            rule: decision.rule,
            refused: outcome == Outcome::Deny
                && rule_ref.as_ref().is_some_and(|rule| is_refusal(self.snapshot, rule)),
            rule_ref,
            closed_by: unmatched.map(|s| s.closed_by()).unwrap_or_default(),
            nearest,
            http,
        }))
    }

    fn http(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        peer: u32,
        http: &HttpQuery,
    ) -> Result<HttpSide, PartyError> {
        let rule_sets = self.compiled.endpoints.get(&endpoint.id).map_or(&[][..], |p| &p.l7);
        let head = RequestHead { method: &http.method, path: &http.path, host: &http.host, headers: http };
        let policy = L7Policy::new(rule_sets).map_err(|e| PartyError::Layer7(e.to_string()))?;
        let reference = |rule: u32| self.compiled.rules.get(&rule).cloned();
        Ok(match policy.decide(direction, peer, self.port, &head) {
            L7Verdict::Allow { rule, actions } => {
                HttpSide { allowed: true, rule, rule_ref: reference(rule), why: None, actions }
            }
            L7Verdict::Deny { nearest, why } => HttpSide {
                allowed: false,
                rule: nearest,
                rule_ref: reference(nearest),
                why: Some(why),
                actions: Vec::new(),
            },
        })
    }
}

/// Whether a rule is what a refused policy denies its subjects with.
pub fn is_refusal(snapshot: &Snapshot, rule: &RuleRef) -> bool {
    if rule.kind == BUILT_IN {
        return false;
    }
    let key = format!("{}/{}/{}", rule.kind, rule.namespace, rule.name);
    snapshot.policies.get(&key).is_some_and(|object| {
        let refuses = |r: &crate::model::Rule| r.action == crate::model::Action::Refuse;
        object.rules.iter().any(|r| r.path == rule.path && refuses(r))
    })
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}", self.name)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        Ok(())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        write!(f, "{way} of {}: {}", self.endpoint, self.outcome.name())?;
        match (&self.rule_ref, self.reason) {
            (Some(rule), _) => write!(f, " by {rule}")?,
            (None, Some(reason)) => write!(f, " ({})", reason.name())?,
            (None, None) => {}
        }
        match self.closed_by.as_slice() {
            [] => {}
            [one] => write!(f, ": default deny by {one}")?,
            [first, others @ ..] => {
                write!(f, ": default deny by {first} (and {} more)", others.len())?;
            }
        }
        if self.refused {
            write!(f, " (this policy was refused and denies its subjects)")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; nearest: {nearest}")?;
        }
        if let Some(http) = &self.http {
            let word = if http.allowed { "allowed" } else { "denied" };
            write!(f, "; request {word}")?;
            match (&http.rule_ref, &http.why) {
                (Some(rule), Some(why)) => write!(f, ": {why} (nearest: {rule})")?,
                (Some(rule), None) => write!(f, " by {rule}")?,
                (None, Some(why)) => write!(f, ": {why}")?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.http_allowed {
            Some(true) => "allow",
            Some(false) => "deny",
            None => self.outcome.name(),
        };
        let proto = crate::proto_name(self.proto);
        writeln!(f, "{word}: {} -> {} {proto} {}", self.from, self.to, self.port)?;
        if let Some(hop) = &self.service {
            writeln!(f, "  service {}: backend {} of {}", hop.service, hop.backend, hop.backends)?;
        }
        for side in self.egress.iter().chain(&self.ingress) {
            writeln!(f, "  {side}")?;
        }
        if self.egress.is_none() && self.ingress.is_none() {
            writeln!(f, "  neither side is a pod of this node: no policy applies here")?;
        }
        Ok(())
    }
}
