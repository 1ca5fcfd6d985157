//! Runs probes: from the node's network namespace to the pod's address, as a kubelet does.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::plan::{Action, ContainerPlan, ProbePlan};

/// Where a container's probes go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    /// For exec probes: the binary that enters containers, and the container's description.
    pub(crate) heddle: PathBuf,
    pub(crate) spec: PathBuf,
}

/// A container that has to be ended.
#[derive(Clone, Debug)]
pub(crate) struct Unhealthy {
    pub(crate) reason: String,
    /// The probe's own grace period.
    pub(crate) grace: Option<Duration>,
}

/// Probes a container for as long as it is well. `ready` hears of every change of its readiness, with what
/// the last probe said.
pub(crate) async fn watch(plan: &ContainerPlan, target: &Target, ready: impl Fn(bool, String)) -> Unhealthy {
    if let Some(probe) = &plan.startup {
        let started = observe(probe, target, Some).await;
        if let Err(error) = started {
            return Unhealthy { reason: format!("startupProbe: {error}"), grace: probe.grace };
        }
    }
    let readiness = async {
        match &plan.readiness {
            Some(probe) => {
                let never: Infallible = observe(probe, target, |outcome| {
                    match outcome {
                        Ok(()) => ready(true, String::new()),
                        Err(error) => ready(false, format!("readinessProbe: {error}")),
                    }
                    None
                })
                .await;
                match never {}
            }
            None => {
                ready(true, String::new());
                std::future::pending().await
            }
        }
    };
    let liveness = async {
        match &plan.liveness {
            Some(probe) => {
                let reason = observe(probe, target, |outcome| outcome.err()).await;
                Unhealthy { reason: format!("livenessProbe: {reason}"), grace: probe.grace }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        unhealthy = readiness => unhealthy,
        unhealthy = liveness => unhealthy,
    }
}

/// Probes until `decide` makes something of the outcome. It hears each outcome that has been repeated as
/// often as the probe's threshold says.
async fn observe<T>(
    probe: &ProbePlan,
    target: &Target,
    mut decide: impl FnMut(Result<(), String>) -> Option<T>,
) -> T {
    sleep(probe.initial_delay).await;
    let mut ticks = interval(probe.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut in_row, mut last_ok) = (0u32, None);
    loop {
        ticks.tick().await;
        let outcome = timeout(probe.timeout, once(&probe.action, target)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", probe.timeout.as_secs())));
        let ok = outcome.is_ok();
        in_row = if last_ok == Some(ok) { in_row.saturating_add(1) } else { 1 };
        last_ok = Some(ok);
        let threshold = if ok { probe.successes } else { probe.failures };
        if in_row >= threshold
            && let Some(decided) = decide(outcome)
        {
            return decided;
        }
    }
}

async fn once(action: &Action, target: &Target) -> Result<(), String> {
    match action {
        Action::Tcp { host, port } => connect(host.as_deref(), *port, target).await.map(drop),
        Action::Http { host, port, path, headers } => {
            let stream = connect(host.as_deref(), *port, target).await?;
            http_get(stream, *port, path, headers, target).await
        }
        Action::Exec { words } => exec(words, target).await,
    }
}

async fn connect(host: Option<&str>, port: u16, target: &Target) -> Result<TcpStream, String> {
    let stream = match host {
        Some(host) => TcpStream::connect((host, port)).await,
        None => TcpStream::connect((target.address, port)).await,
    };
    stream.map_err(|e| format!("connecting to port {port}: {e}"))
}

async fn http_get(
    stream: TcpStream,
    port: u16,
    path: &str,
    headers: &[(String, String)],
    target: &Target,
) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut request = Request::get(path)
        .header(http::header::USER_AGENT, concat!("heddle-probe/", env!("CARGO_PKG_VERSION")))
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let host = std::net::SocketAddr::new(target.address, port).to_string();
        request = request.header(http::header::HOST, host);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = async { sender.send_request(request).await };
    tokio::pin!(answer);
    let response = tokio::select! {
        response = &mut answer => response,
        _ = connection => answer.await,
    };
    // The status decides; the body is nobody's business here.
    match response.map_err(|e| e.to_string())?.status() {
        status if (200..400).contains(&status.as_u16()) => Ok(()),
        status => Err(format!("GET {path} answered {status}")),
    }
}

async fn exec(words: &[String], target: &Target) -> Result<(), String> {
    let mut command = Command::new(&target.heddle);
    command.arg("pod-exec").arg(&target.spec).arg("--").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", words.join(" "))),
        Err(error) => Err(error.to_string()),
    }
}
