//! The agent's API as the command line uses it.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cni::ApiError;
use crate::layout::Instance;

/// The agent of an instance.
#[derive(Clone, Debug)]
pub struct Client {
    instance: Instance,
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "agent is not running for instance {instance} ({socket}): start it with `heddle run` or `heddle agent`"
    )]
    NotRunning { instance: Instance, socket: PathBuf },
    #[error("{0}: only root may talk to the agent: use sudo")]
    NotRoot(PathBuf),
    #[error("{socket}: {source}")]
    Io { socket: PathBuf, source: io::Error },
    #[error("the agent ended the conversation: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the agent's answer is not what this version of heddle expects ({0}): use the same release")]
    Answer(#[from] serde_json::Error),
}

impl Client {
    pub fn new(instance: &Instance) -> Self {
        Self { instance: instance.clone(), socket: instance.agent_socket() }
    }

    /// A client of another socket than the instance's.
    pub fn at(instance: &Instance, socket: PathBuf) -> Self {
        Self { instance: instance.clone(), socket }
    }

    /// Asks for a document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
    }

    /// Sends a document, takes one.
    pub async fn post<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<T, ClientError> {
        let answer = self.send(Method::POST, path, serde_json::to_vec(question)?.into()).await?;
        Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
    }

    /// Asks for text lines and hands each to `take` as it comes, until the end or until `take` says false.
    pub async fn lines(&self, path: &str, mut take: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        let mut body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !take(String::from_utf8_lossy(&line).trim_end()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.io_error(source))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "heddle")
            .body(Full::new(body))
            .map_err(|error| ClientError::Refused(error.to_string()))?;
        let answer = sender.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let error = serde_json::from_slice::<ApiError>(&body).map(|answer| answer.error);
        Err(ClientError::Refused(error.unwrap_or_else(|_| format!("the agent answered {status}"))))
    }

    fn io_error(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { instance: self.instance.clone(), socket }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotRoot(socket),
            _ => ClientError::Io { socket, source },
        }
    }
}
