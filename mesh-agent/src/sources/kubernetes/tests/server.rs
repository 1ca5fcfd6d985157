//! A small API server: lists in pages, watches with versions, and the faults that real ones have.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, Infallible>;

/// How a version that is too old is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// By an event in the stream, as kube-apiserver does.
    Event,
    /// By the status of the answer.
    Status,
}

/// The server. Ends when it is dropped; its state does not end with [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    world: Arc<World>,
    running: Option<JoinSet<()>>,
}

#[derive(Debug)]
struct World {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    version: u64,
    /// By plural and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    /// Version, plural, type and object.
    events: Vec<(u64, String, &'static str, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    gone: Gone,
    absent: Vec<&'static str>,
    lists: usize,
    /// Events that were sent.
    reported: Vec<Value>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let state = State {
            version: 1,
            objects: BTreeMap::new(),
            events: Vec::new(),
            oldest: 0,
            gone: Gone::Event,
            absent: Vec::new(),
            lists: 0,
            reported: Vec::new(),
        };
        let world = Arc::new(World { state: Mutex::new(state), changed: watch::Sender::new(0) });
        let mut server = Self { address: "127.0.0.1:0".parse().expect("address"), world, running: None };
        server.run().await;
        server
    }

    /// Listens again at the same address.
    pub(super) async fn run(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("port");
        self.address = listener.local_addr().expect("address");
        let mut running = JoinSet::new();
        let world = self.world.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let world = world.clone();
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let world = world.clone();
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                            Ok::<_, Infallible>(world.answer(&Request::from_parts(head, body)))
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        self.running = Some(running);
    }

    /// Ends every connection and listens no more.
    pub(super) async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.shutdown().await;
        }
    }

    /// Ends every connection.
    pub(super) async fn break_watches(&mut self) {
        self.stop().await;
        self.run().await;
    }

    pub(super) fn apply(&self, plural: &str, object: Value) {
        self.world.change(plural, object, true);
    }

    pub(super) fn delete(&self, plural: &str, path: &str) {
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        self.world.change(plural, json!({"metadata": {"name": name, "namespace": namespace}}), false);
    }

    /// Forgets all versions up to now.
    pub(super) fn compact(&self, gone: Gone) {
        let mut state = self.world.lock();
        state.version += 1;
        state.oldest = state.version;
        state.gone = gone;
        state.events.clear();
    }

    /// Kinds that this cluster does not have.
    pub(super) fn set_absent(&self, absent: &[&'static str]) {
        self.world.lock().absent = absent.to_vec();
    }

    /// An object as it is now.
    pub(super) fn get(&self, plural: &str, path: &str) -> Value {
        self.world.lock().objects[&(plural.to_owned(), path.to_owned())].clone()
    }

    /// Events that were sent.
    pub(super) fn reported(&self) -> Vec<Value> {
        self.world.lock().reported.clone()
    }

    /// How many lists were asked for.
    pub(super) fn lists(&self) -> usize {
        self.world.lock().lists
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whole")
    }

    fn change(&self, plural: &str, mut object: Value, keep: bool) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), format!("{}/{}", text("namespace"), text("name")));
        let before = state.objects.contains_key(&key);
        let event = match (keep, before) {
            (true, true) => "MODIFIED",
            (true, false) => "ADDED",
            (false, _) => "DELETED",
        };
        if keep {
            state.objects.insert(key, object.clone());
        } else {
            state.objects.remove(&key);
        }
        state.events.push((version, plural.to_owned(), event, object));
        drop(state);
        self.changed.send_replace(version);
    }

    /// Writes a status, or takes an Event.
    fn write(&self, request: &Request<Bytes>) -> Response<Body> {
        let body: Value = serde_json::from_slice(request.body()).expect("JSON");
        let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        match (request.method(), parts.as_slice()) {
            (&Method::POST, [.., "events"]) => self.lock().reported.push(body.clone()),
            (&Method::PATCH, [.., "namespaces", namespace, plural, name, "status"]) => {
                let key = ((*plural).to_owned(), format!("{namespace}/{name}"));
                let object = self.lock().objects.get(&key).cloned();
                let Some(mut object) = object else { return status(StatusCode::NOT_FOUND, "gone") };
                object["status"] = body["status"].clone();
                self.change(plural, object.clone(), true);
                return reply(StatusCode::OK, &object);
            }
            (method, _) => panic!("{method} {} is nothing that the source should do", request.uri()),
        }
        reply(StatusCode::CREATED, &body)
    }

    fn answer(self: &Arc<Self>, request: &Request<Bytes>) -> Response<Body> {
        if request.method() != Method::GET {
            return self.write(request);
        }
        let path = request.uri().path().to_owned();
        if path == "/version" {
            let fields = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate"];
            let more = ["goVersion", "compiler", "platform"];
            return reply(StatusCode::OK, &fields.iter().chain(&more).map(|f| (*f, "1")).collect::<Value>());
        }
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut state = self.lock();
        let definition = path.contains("customresourcedefinitions/");
        if state.absent.iter().any(|kind| plural.starts_with(kind)) {
            return status(StatusCode::NOT_FOUND, "the server could not find the requested resource");
        }
        if definition {
            let definition = json!({"metadata": {"name": plural}, "spec": {"group": "", "names": {"kind": "", "plural": ""}, "scope": "", "versions": []}});
            return reply(StatusCode::OK, &definition);
        }
        if query.contains_key("watch") {
            let version: u64 = query["resourceVersion"].parse().expect("a version");
            if version < state.oldest {
                let message = "too old resource version";
                return match state.gone {
                    Gone::Status => status(StatusCode::GONE, message),
                    Gone::Event => {
                        let error = json!({"type": "ERROR", "object": failure(StatusCode::GONE, message)});
                        response(StatusCode::OK, Full::from(format!("{error}\n")).boxed())
                    }
                };
            }
            drop(state);
            return response(StatusCode::OK, self.clone().watch(plural, version));
        }
        state.lists += 1;
        let limit: usize = query["limit"].parse().expect("a limit");
        let from: usize = query.get("continue").map_or(0, |token| token.parse().expect("a token"));
        let all: Vec<_> =
            state.objects.iter().filter(|((kind, _), _)| *kind == plural).map(|(_, object)| object).collect();
        let page: Vec<_> = all.iter().skip(from).take(limit).collect();
        let next = if from + limit < all.len() { (from + limit).to_string() } else { String::new() };
        let version = state.version.to_string();
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": next},
            "items": page,
        });
        reply(StatusCode::OK, &list)
    }

    fn watch(self: Arc<Self>, plural: String, version: u64) -> Body {
        let changed = self.changed.subscribe();
        let lines = stream::unfold((self, changed, plural, version), async |state| {
            let (world, mut changed, plural, mut version) = state;
            loop {
                let mut lines = String::new();
                {
                    let state = world.lock();
                    for (at, kind, event, object) in &state.events {
                        if *at > version && *kind == plural {
                            lines += &format!("{}\n", json!({"type": event, "object": object}));
                        }
                    }
                    version = state.version;
                }
                if !lines.is_empty() {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(lines)));
                    return Some((frame, (world, changed, plural, version)));
                }
                changed.changed().await.ok()?;
            }
        });
        StreamBody::new(lines).boxed()
    }
}

fn failure(code: StatusCode, message: &str) -> Value {
    let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "Expired" };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code.as_u16()})
}

fn status(code: StatusCode, message: &str) -> Response<Body> {
    reply(code, &failure(code, message))
}

fn reply(code: StatusCode, value: &Value) -> Response<Body> {
    response(code, Full::from(value.to_string()).boxed())
}

fn response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}
