//! As much of an agent as the launcher talks to: notes each readiness report.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// Reports as `path ready`, in order.
pub(crate) struct Agent {
    reports: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub(crate) fn start(socket: &Path) -> Self {
        std::fs::remove_file(socket).ok();
        let listener = UnixListener::bind(socket).expect("the agent's socket");
        let reports = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&reports);
        let task = tokio::spawn(async move {
            // Connections end with the agent.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let notes = Arc::clone(&notes);
                let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let notes = Arc::clone(&notes);
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await?.to_bytes();
                        let line = format!("{path} {}", String::from_utf8_lossy(&body));
                        notes.lock().expect("notes").push(line);
                        Ok::<_, hyper::Error>(http::Response::new(Full::<Bytes>::default()))
                    }
                });
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
        });
        Agent { reports, task }
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// The last thing said about a pod of namespace `test`.
    pub(crate) fn ready(&self, pod: &str) -> Option<bool> {
        let path = format!("/v1/pods/test/{pod}/ready ");
        let reports = self.reports.lock().expect("notes");
        let last = reports.iter().rev().find_map(|line| line.strip_prefix(&path))?;
        Some(last == r#"{"ready":true}"#)
    }
}
