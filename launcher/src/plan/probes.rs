//! Probes as a pod describes them, with Kubernetes' defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, HTTPHeader, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{FieldError, seconds};

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbePlan {
    pub(crate) action: Action,
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    /// Results of one kind in a row before they count.
    pub(crate) failures: u32,
    pub(crate) successes: u32,
    /// Overrides the pod's grace period when this probe ends the container.
    pub(crate) grace: Option<Duration>,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Http { host: Option<String>, port: u16, path: String, headers: Vec<(String, String)> },
    Tcp { host: Option<String>, port: u16 },
    Exec { words: Vec<String> },
}

impl ProbePlan {
    /// Reads the probe called `name`; `None` after an error.
    pub(super) fn of(
        probe: &Probe,
        name: &str,
        ports: &BTreeMap<String, u16>,
        path: &str,
        errors: &mut Vec<FieldError>,
    ) -> Option<Self> {
        let before = errors.len();
        let action = match action(probe, ports) {
            Ok(action) => Some(action),
            Err((field, reason)) => {
                errors.push(FieldError::new(format!("{path}{field}"), reason));
                None
            }
        };
        let mut number = |field: &str, value: Option<i32>, default: i32, least: i32| {
            let value = value.unwrap_or(default);
            if value < least {
                let reason = format!("{value} is less than {least}");
                errors.push(FieldError::new(format!("{path}.{field}"), reason));
            }
            u32::try_from(value).unwrap_or(0)
        };
        let initial_delay = number("initialDelaySeconds", probe.initial_delay_seconds, 0, 0);
        let period = number("periodSeconds", probe.period_seconds, 10, 1);
        let timeout = number("timeoutSeconds", probe.timeout_seconds, 1, 1);
        let failures = number("failureThreshold", probe.failure_threshold, 3, 1);
        let successes = number("successThreshold", probe.success_threshold, 1, 1);
        if name != "readinessProbe" && successes > 1 {
            let reason = format!("must be 1 for a {name}");
            errors.push(FieldError::new(format!("{path}.successThreshold"), reason));
        }
        if errors.len() > before {
            return None;
        }
        Some(ProbePlan {
            action: action?,
            initial_delay: seconds(initial_delay.into()),
            period: seconds(period.into()),
            timeout: seconds(timeout.into()),
            failures,
            successes,
            grace: probe.termination_grace_period_seconds.map(seconds),
        })
    }
}

/// A field below the probe, and what is wrong with it.
type Wrong = (&'static str, String);

fn action(probe: &Probe, ports: &BTreeMap<String, u16>) -> Result<Action, Wrong> {
    match (&probe.http_get, &probe.tcp_socket, &probe.exec, &probe.grpc) {
        (Some(get), None, None, None) => http_get(get, ports),
        (None, Some(tcp), None, None) => tcp_socket(tcp, ports),
        (None, None, Some(exec), None) => exec_action(exec),
        (None, None, None, Some(_)) => Err((".grpc", "is not supported by the launcher".to_owned())),
        _ => Err(("", "needs exactly one of httpGet, tcpSocket and exec".to_owned())),
    }
}

fn http_get(get: &HTTPGetAction, ports: &BTreeMap<String, u16>) -> Result<Action, Wrong> {
    if get.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
        return Err((".httpGet.scheme", "only HTTP is supported by the launcher".to_owned()));
    }
    let port = port(&get.port, ports).map_err(|reason| (".httpGet.port", reason))?;
    let path = get.path.clone().unwrap_or_default();
    // Kubelet puts the slash where it is missing.
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    if path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err((".httpGet.path", format!("{path:?} is not a path")));
    }
    let header = |h: &HTTPHeader| (h.name.clone(), h.value.clone());
    let headers: Vec<_> = get.http_headers.iter().flatten().map(header).collect();
    let valid = |(name, value): &(String, String)| {
        name.parse::<http::HeaderName>().is_ok() && value.parse::<http::HeaderValue>().is_ok()
    };
    if let Some((name, _)) = headers.iter().find(|h| !valid(h)) {
        return Err((".httpGet.httpHeaders", format!("{name:?} is not a header")));
    }
    Ok(Action::Http { host: get.host.clone().filter(|h| !h.is_empty()), port, path, headers })
}

fn tcp_socket(tcp: &TCPSocketAction, ports: &BTreeMap<String, u16>) -> Result<Action, Wrong> {
    let port = port(&tcp.port, ports).map_err(|reason| (".tcpSocket.port", reason))?;
    Ok(Action::Tcp { host: tcp.host.clone().filter(|h| !h.is_empty()), port })
}

fn exec_action(exec: &ExecAction) -> Result<Action, Wrong> {
    match exec.command.clone() {
        Some(words) if !words.is_empty() => Ok(Action::Exec { words }),
        _ => Err((".exec.command", "is empty".to_owned())),
    }
}

fn port(port: &IntOrString, ports: &BTreeMap<String, u16>) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => match u16::try_from(*number) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(format!("{number} is not a port")),
        },
        IntOrString::String(name) => {
            ports.get(name).copied().ok_or_else(|| format!("no port of the container is named {name:?}"))
        }
    }
}
