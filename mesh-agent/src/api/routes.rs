//! From a request to its answer.

use std::collections::HashMap;
use std::str::FromStr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Body, lists, streams};
use crate::agent::Agent;
use crate::agent::attach::CniError;
use crate::cni::ApiError;
use crate::flows::filter::FlowFilter;

/// Longest body of a request: a GC of the most pods there can be.
const REQUEST_MAX: usize = 4 << 20;
/// Flows that are sent if nobody says how many.
const FLOWS_DEFAULT: usize = 20;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl ToString) -> Self {
        Self { status, message: message.to_string() }
    }

    fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<CniError> for Refusal {
    fn from(error: CniError) -> Self {
        let status = match error {
            CniError::Starting | CniError::NotInKernel { .. } => StatusCode::SERVICE_UNAVAILABLE,
            CniError::Register(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, error)
    }
}

type Answer = Result<Response<Body>, Refusal>;

/// Answers one request.
pub(super) async fn answer(agent: &Agent, request: Request<Incoming>) -> Response<Body> {
    match route(agent, request).await {
        Ok(answer) => answer,
        Err(refusal) => json(refusal.status, &ApiError { error: refusal.message }),
    }
}

async fn route(agent: &Agent, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["v1", "status"]) => ok(&lists::status(agent)),
        (&Method::GET, ["v1", "endpoints"]) => ok(&lists::endpoints(agent)),
        (&Method::GET, ["v1", "services"]) => ok(&lists::services(agent)),
        (&Method::GET, ["v1", "identities"]) => ok(&lists::identities(agent)),
        (&Method::GET, ["v1", "policies"]) => ok(&lists::policies(agent)),
        (&Method::GET, ["v1", "flows"]) => flows(agent, request.uri().query().unwrap_or_default()),
        (&Method::GET, ["v1", "dns"]) => Ok(stream(streams::dns(agent.published.clone()))),
        (&Method::GET, ["v1", "pods"]) => Ok(stream(streams::pods(agent.pods.subscribe()))),
        (&Method::GET, ["metrics"]) => Ok(metrics(agent, &path).await),
        (&Method::POST, ["v1", "explain"]) => {
            let question = body(request).await?;
            let published = agent.published.borrow().clone();
            let explanation =
                crate::explain::explain(&published.view.snapshot, &published.view.compiled, &question);
            ok(&explanation.map_err(Refusal::bad)?)
        }
        (&Method::GET, ["v1", "cni", "status"]) => match agent.published.borrow().revision {
            0 => Err(CniError::Starting.into()),
            _ => ok(&serde_json::json!({})),
        },
        (&Method::POST, ["v1", "cni", question]) => {
            let question = (*question).to_owned();
            cni(agent, &question, request).await
        }
        (&Method::POST, ["v1", "pods", namespace, name, "ready"]) => {
            let (namespace, name) = ((*namespace).to_owned(), (*name).to_owned());
            let state: Readiness = body(request).await?;
            if agent.set_ready(&namespace, &name, state.ready)? {
                return ok(&serde_json::json!({}));
            }
            Err(Refusal::new(StatusCode::NOT_FOUND, format!("pod {namespace}/{name} is not known")))
        }
        (method, _) => {
            let message = format!("{method} {path} is nothing this agent answers; see GET /v1/status");
            Err(Refusal::new(StatusCode::NOT_FOUND, message))
        }
    }
}

/// The page for Prometheus.
pub(super) async fn metrics(agent: &Agent, path: &str) -> Response<Body> {
    if path != "/metrics" {
        let error = format!("{path} is nothing that is served here: use /metrics");
        return json(StatusCode::NOT_FOUND, &ApiError { error });
    }
    text(crate::metrics::whole_page(lists::metrics_page(agent).await).await)
}

#[derive(Debug, Deserialize)]
struct Readiness {
    ready: bool,
}

async fn cni(agent: &Agent, question: &str, request: Request<Incoming>) -> Answer {
    match question {
        "allocate" => ok(&agent.allocate(&body(request).await?).await?),
        "ready" => {
            agent.ready(&body(request).await?).await?;
            ok(&serde_json::json!({}))
        }
        "release" => {
            agent.release(&body(request).await?).await?;
            ok(&serde_json::json!({}))
        }
        "check" => {
            agent.check(&body(request).await?)?;
            ok(&serde_json::json!({}))
        }
        "gc" => ok(&agent.gc(&body(request).await?).await?),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, format!("no CNI question is named {question}"))),
    }
}

fn flows(agent: &Agent, query: &str) -> Answer {
    let mut given: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let filter = FlowFilter {
        verdict: parameter(&mut given, "verdict")?,
        from: parameter(&mut given, "from")?,
        to: parameter(&mut given, "to")?,
    };
    let last = parameter(&mut given, "last")?.unwrap_or(FLOWS_DEFAULT);
    let follow = parameter(&mut given, "follow")?.unwrap_or(false);
    if let Some(name) = given.keys().next() {
        return Err(Refusal::bad(format!(
            "parameter {name}: unknown; use last, follow, verdict, from and to"
        )));
    }
    Ok(stream(streams::flows(&agent.flows, filter, last, follow)))
}

/// One parameter of a query; an empty one counts as absent.
fn parameter<T: FromStr<Err: ToString>>(
    given: &mut HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, Refusal> {
    match given.remove(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            let parsed = text.parse().map(Some);
            parsed.map_err(|e: T::Err| Refusal::bad(format!("parameter {name}: {}", e.to_string())))
        }
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = Limited::new(request.into_body(), REQUEST_MAX).collect().await.map_err(Refusal::bad)?;
    let bytes = bytes.to_bytes();
    let mut decoder = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut decoder).map_err(|error| Refusal::bad(format!("body: {error}")))
}

fn ok<T: Serialize>(value: &T) -> Answer {
    Ok(json(StatusCode::OK, value))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    // Our own types: maps with text keys and numbers, which JSON always takes.
    let text = serde_json::to_vec(value).unwrap_or_default();
    response(status, "application/json", Full::new(Bytes::from(text)).boxed())
}

fn text(page: String) -> Response<Body> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response(StatusCode::OK, kind, Full::new(Bytes::from(page)).boxed())
}

fn stream(body: Body) -> Response<Body> {
    response(StatusCode::OK, "application/x-ndjson", body)
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
