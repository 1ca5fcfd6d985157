//! `policy explain`: from names as users write them to [`policy::explain`], and its answer as JSON and text.
//! The decision itself is the policy crate's, the very code that kernel and proxy run.

mod request;

use std::net::SocketAddr;

use abi::proto;
use policy::explain::{Explanation, HttpSide, Outcome, Query, Side};
use policy::snapshot::ServicePort;
use policy::{CompiledPolicy, Snapshot};
use serde::{Deserialize, Serialize};

use crate::api::types::ExplainRequest;
use crate::flows::PolicyName;
use crate::flows::label_list;
pub use request::RequestAnswer;

/// Answer to [`ExplainRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `allow`, `redirect` (the proxy decides on each request) or `deny`.
    pub verdict: String,
    pub from: End,
    pub to: End,
    pub protocol: String,
    /// Port that was decided on: behind a service the backend's.
    pub port: u16,
    /// `namespace/name` and backend, if `to` was a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The source's egress policy; absent if the source is no pod of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<SideAnswer>,
    /// The destination's ingress policy; absent if the destination is no pod of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<SideAnswer>,
    /// The request as the proxy judges it, if one was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestAnswer>,
    /// All of it for people.
    pub text: String,
}

/// One end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub name: String,
    pub identity: u32,
    pub labels: Vec<String>,
}

/// How a service's address was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub backend: SocketAddr,
    /// Ready ones.
    pub backends: usize,
}

/// What one endpoint's policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideAnswer {
    /// `namespace/name` of the pod whose policy it is.
    pub endpoint: String,
    pub verdict: String,
    /// Name of the drop reason, if denied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The rule that decided; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// That policy was refused and denies its subjects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The policies that turned default deny on, if no rule decided and that denies; in the order of kind,
    /// namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_deny: Vec<PolicyName>,
    /// What would have allowed a similar connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What layer 7 says of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAnswer>,
}

/// What one endpoint's HTTP rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    pub allowed: bool,
    /// The rule that allows it or came nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Answers a question about the state given.
///
/// # Errors
/// A sentence for the user: an end that is not known, a protocol that is none.
pub fn explain(
    snapshot: &Snapshot,
    compiled: &CompiledPolicy,
    question: &ExplainRequest,
) -> Result<Answer, String> {
    let request = question.request.as_ref().map(request::canonical);
    let (request, http) = request.map_or((None, None), |(answer, query)| (Some(answer), query));
    let query = Query {
        from: end(snapshot, &question.from, 0),
        to: end(snapshot, &question.to, question.port),
        proto: protocol(&question.protocol)?,
        port: question.port,
        http,
    };
    let explanation =
        policy::explain::explain(snapshot, compiled, &query).map_err(|error| error.to_string())?;
    let mut answer = answer(&explanation);
    if let (Some(request), Some(asked)) = (&request, &question.request) {
        add_request(&mut answer, explanation.outcome, request, &asked.path);
    }
    answer.request = request;
    Ok(answer)
}

/// What the proxy does to the request before rules are asked. A connection that does not go through it is not
/// looked into.
fn add_request(answer: &mut Answer, outcome: Outcome, request: &RequestAnswer, asked: &str) {
    match (request.refused_status, &request.refused_why) {
        (Some(status), Some(why)) if outcome == Outcome::Redirect => {
            answer.verdict = Outcome::Deny.name().to_owned();
            let first = answer.text.split_once(": ").map_or("", |(_, rest)| rest);
            answer.text =
                format!("deny: {first}  the proxy answers {status} before any rule is asked: {why}\n");
        }
        (None, _) if request.path != asked && outcome == Outcome::Redirect => {
            answer.text += &format!("  {asked} is judged, and forwarded, as {}\n", request.path);
        }
        _ => {}
    }
}

/// `world` and the like are entities, `pod/namespace/name` and `svc/namespace/name` what they say. Of a pod and
/// a service of one name the service is meant by a port that only the service has.
fn end(snapshot: &Snapshot, text: &str, port: u16) -> String {
    let (kind, name) = match text.split_once('/') {
        Some((kind @ ("pod" | "svc"), name)) if name.contains('/') => (kind, name),
        _ => ("", text),
    };
    let key = if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
    let pod = kind != "svc" && snapshot.endpoints.contains_key(&key);
    let service = snapshot.services.get(&key).filter(|_| kind != "pod");
    let only_the_service = |port| {
        let has = |p: &ServicePort| p.port == port && p.backends.iter().all(|backend| backend.port != port);
        service.is_some_and(|service| service.ports.iter().any(has))
    };
    let meant = service.filter(|_| !pod || only_the_service(port));
    if let Some(address) = meant.and_then(|service| service.cluster_ips.first()) {
        return address.to_string();
    }
    if pod {
        return key;
    }
    if policy::identity::reserved_number(text).is_some() {
        return format!("entity:{text}");
    }
    text.to_owned()
}

fn protocol(name: &str) -> Result<u8, String> {
    match name.to_ascii_uppercase().as_str() {
        "" | "TCP" => Ok(proto::TCP),
        "UDP" => Ok(proto::UDP),
        "SCTP" => Ok(proto::SCTP),
        "ICMP" | "ICMPV4" => Ok(proto::ICMP),
        "ICMPV6" => Ok(proto::ICMPV6),
        _ => Err(format!("protocol {name:?}: use TCP, UDP, SCTP, ICMPv4 or ICMPv6")),
    }
}

fn answer(explanation: &Explanation) -> Answer {
    let end = |party: &policy::explain::Party| End {
        name: party.endpoint.clone().unwrap_or_else(|| party.text.clone()),
        identity: party.identity,
        labels: label_list(&party.labels),
    };
    let verdict = match explanation.http_allowed {
        Some(true) => "allow",
        Some(false) => "deny",
        None => explanation.outcome.name(),
    };
    Answer {
        verdict: verdict.to_owned(),
        from: end(&explanation.from),
        to: end(&explanation.to),
        protocol: crate::flows::view::protocol(explanation.proto),
        port: explanation.port,
        service: explanation.service.as_ref().map(|hop| Service {
            name: hop.service.clone(),
            backend: hop.backend,
            backends: hop.backends,
        }),
        egress: explanation.egress.as_ref().map(side),
        ingress: explanation.ingress.as_ref().map(side),
        request: None,
        text: explanation.to_string(),
    }
}

fn side(side: &Side) -> SideAnswer {
    SideAnswer {
        endpoint: side.endpoint.clone(),
        verdict: side.outcome.name().to_owned(),
        reason: side.reason.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        policy: side.rule_ref.as_ref().map(PolicyName::from),
        refused: side.refused,
        default_deny: side.closed_by.iter().map(PolicyName::from).collect(),
        nearest: side.nearest.clone(),
        http: side.http.as_ref().map(http),
    }
}

fn http(side: &HttpSide) -> HttpAnswer {
    HttpAnswer {
        allowed: side.allowed,
        policy: side.rule_ref.as_ref().map(PolicyName::from),
        why: side.why.clone(),
    }
}
