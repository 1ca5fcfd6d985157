//! The agent's API as the plugin uses it: HTTP/1.1 and JSON over its Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::error::{CniError, code};
use super::wire::{
    AllocateRequest, Allocation, ApiError, Attachment, CheckRequest, GcRequest, GcResponse, ReadyRequest,
    monotonic_ms,
};

/// Longest time for one question. `ready` waits for a compilation, runtimes give up after minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer read, bytes.
const ANSWER_MAX: usize = 1 << 20;

/// The agent behind a socket. Every question is a connection of its own.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(super) fn new(socket: PathBuf) -> Self {
        Agent { socket }
    }

    /// When a question that is asked now is given up, milliseconds of CLOCK_MONOTONIC.
    pub(super) fn gives_up_at_ms(&self) -> u64 {
        monotonic_ms() + ANSWER_TIMEOUT.as_millis() as u64
    }

    pub(super) async fn allocate(&self, request: &AllocateRequest) -> Result<Allocation, CniError> {
        let answer = self.post("/v1/cni/allocate", request).await?;
        decode(&answer)
    }

    pub(super) async fn ready(&self, request: &ReadyRequest) -> Result<(), CniError> {
        self.post("/v1/cni/ready", request).await.map(drop)
    }

    pub(super) async fn release(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.post("/v1/cni/release", attachment).await.map(drop)
    }

    pub(super) async fn check(&self, request: &CheckRequest) -> Result<(), CniError> {
        self.post("/v1/cni/check", request).await.map(drop)
    }

    pub(super) async fn gc(&self, request: &GcRequest) -> Result<GcResponse, CniError> {
        let answer = self.post("/v1/cni/gc", request).await?;
        if answer.is_empty() { Ok(GcResponse::default()) } else { decode(&answer) }
    }

    pub(super) async fn status(&self) -> Result<(), CniError> {
        self.ask(Method::GET, "/v1/cni/status", Bytes::new()).await.map(drop)
    }

    async fn post<T: Serialize>(&self, path: &str, body: &T) -> Result<Bytes, CniError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| CniError::new(code::IO_FAILURE, "writing a question to the agent", e))?;
        self.ask(Method::POST, path, Bytes::from(body)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CniError> {
        let exchange = timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)).await;
        let (status, answer) = exchange
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            .map_err(|details| {
                let msg = format!("the agent at {} cannot be reached", self.socket.display());
                CniError::new(code::TRY_AGAIN_LATER, msg, details)
            })?;
        if status.is_success() {
            return Ok(answer);
        }
        let details = match serde_json::from_slice::<ApiError>(&answer) {
            Ok(error) => error.error,
            Err(_) => String::from_utf8_lossy(&answer).into_owned(),
        };
        // 503: it is starting, or shutting down.
        let busy = status == StatusCode::SERVICE_UNAVAILABLE;
        let code = if busy { code::TRY_AGAIN_LATER } else { code::AGENT_REFUSED };
        Err(CniError::new(code, format!("the agent answered {status} to {path}"), details))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "heddle")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
        };
        tokio::pin!(talk);
        // The connection's own error shows in the exchange; its end does not end the exchange.
        tokio::select! {
            answer = &mut talk => answer,
            _ = connection => talk.await,
        }
    }
}

fn decode<T: DeserializeOwned>(answer: &Bytes) -> Result<T, CniError> {
    serde_json::from_slice(answer)
        .map_err(|e| CniError::new(code::AGENT_REFUSED, "the agent's answer makes no sense", e))
}
