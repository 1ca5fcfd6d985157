//! Tells the agent which pods are ready: `POST /v1/pods/{namespace}/{name}/ready`.
//!
//! The connection stays open between reports. When it ends the agent may be a new one that knows nothing, so
//! everything is said again; while there is none, readiness waits here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::names::PodKey;

/// Pause before the agent is looked for again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a pod that the agent did not know is reported again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the agent to hear of a pod before its network is made.
const TOLD_MAX: Duration = Duration::from_secs(5);
/// Longest answer read, bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Handle to the reporting task. The task ends with its last handle's [`Reporter::stop`].
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<BTreeMap<PodKey, bool>>,
    changed: Notify,
    /// What this connection's agent was told.
    said: watch::Sender<BTreeMap<PodKey, bool>>,
}

impl Reporter {
    /// Starts the task.
    pub(crate) fn start(agent_socket: PathBuf) -> (Self, JoinHandle<()>) {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(agent_socket, Arc::clone(&shared)));
        (Reporter { shared }, task)
    }

    /// Remembers and reports a pod's readiness.
    pub(crate) fn set(&self, key: &PodKey, ready: bool) {
        if self.shared.lock().insert(key.clone(), ready) != Some(ready) {
            self.shared.changed.notify_one();
        }
    }

    /// Waits until the agent knows what was set last, at most [`TOLD_MAX`].
    pub(crate) async fn told(&self, key: &PodKey) {
        let mut said = self.shared.said.subscribe();
        let known = |said: &BTreeMap<PodKey, bool>| said.get(key) == self.shared.lock().get(key);
        // An agent that is away cannot take a pod either: whoever waits finds out by itself.
        timeout(TOLD_MAX, said.wait_for(known)).await.ok();
    }

    /// Says no more about a pod.
    pub(crate) fn forget(&self, key: &PodKey) {
        self.shared.lock().remove(key);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodKey, bool>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(socket: PathBuf, shared: Arc<Shared>) {
    loop {
        if let Err(error) = serve(&socket, &shared).await {
            debug!(%error, "readiness waits for the agent");
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Reports over one connection until it ends.
async fn serve(socket: &Path, shared: &Shared) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = tokio::spawn(connection);
    shared.said.send_replace(BTreeMap::new());
    let outcome = loop {
        let wanted = shared.lock().clone();
        shared.said.send_modify(|said| said.retain(|key, _| wanted.contains_key(key)));
        match say(&mut sender, &wanted, &shared.said).await {
            Ok(complete) => {
                let pause =
                    async { if complete { std::future::pending().await } else { sleep(RETRY_PAUSE).await } };
                tokio::select! {
                    _ = &mut connection => return Ok(()),
                    () = shared.changed.notified() => {}
                    () = pause => {}
                }
            }
            Err(error) => break Err(error),
        }
    };
    connection.abort();
    outcome
}

/// Says what was not said yet; whether the agent took all of it.
async fn say(
    sender: &mut SendRequest<Full<Bytes>>,
    wanted: &BTreeMap<PodKey, bool>,
    said: &watch::Sender<BTreeMap<PodKey, bool>>,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let mut complete = true;
    for (key, ready) in wanted {
        if said.borrow().get(key) == Some(ready) {
            continue;
        }
        match timeout(ANSWER_TIMEOUT, post(sender, key, *ready)).await?? {
            status if status.is_success() => {
                said.send_modify(|said| {
                    said.insert(key.clone(), *ready);
                });
            }
            status => {
                debug!(pod = %key, %status, "the agent does not take this pod's readiness yet");
                complete = false;
            }
        }
    }
    Ok(complete)
}

async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    key: &PodKey,
    ready: bool,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    sender.ready().await?;
    let request = Request::post(format!("/v1/pods/{}/{}/ready", key.namespace, key.name))
        .header(http::header::HOST, "heddle")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(format!("{{\"ready\":{ready}}}"))))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    // Read to its end, or the connection could not be used again.
    Limited::new(response.into_body(), ANSWER_MAX).collect().await?;
    Ok(status)
}
