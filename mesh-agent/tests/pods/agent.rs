//! As much of an agent as the plugin and the DNS server talk to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_agent::cni::{
    AllocateRequest, AllocatedAddress, Allocation, ApiError, Attachment, CheckRequest, GcRequest, GcResponse,
    ReadyRequest,
};
use mesh_agent::layout::Instance;
use serde::Serialize;
use tokio::net::UnixListener;

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// What the agent knows and was told.
#[derive(Debug, Default)]
pub(crate) struct State {
    next: u8,
    /// Attachment to pod, address number, index of the host's end (0 before `ready`).
    pub(crate) attached: BTreeMap<Attachment, (String, u8, u32)>,
    /// Pods reported ready.
    pub(crate) ready: BTreeMap<String, bool>,
    /// The agent says no to `ready`.
    pub(crate) refuses: bool,
    /// The document of `/v1/dns`.
    pub(crate) dns: String,
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) instance: Instance,
    pub(crate) state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Agent {
    pub(crate) fn start(name: &str) -> Self {
        let instance: Instance = format!("pt{}-{name}", std::process::id()).parse().expect("a name");
        let mut agent = Agent { instance, state: Arc::default(), runtime: None };
        agent.resume();
        agent
    }

    /// Starts it (again), with what it knew.
    pub(crate) fn resume(&mut self) {
        std::fs::create_dir_all(self.run_dir()).expect("a folder");
        std::fs::remove_file(self.instance.agent_socket()).ok();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(self.instance.agent_socket()).expect("a socket")
        };
        let state = Arc::clone(&self.state);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let answer = service_fn(move |request| answer(Arc::clone(&state), request));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        self.runtime = Some(runtime);
    }

    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.instance.run_dir()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.run_dir()).ok();
    }
}

/// The addresses of the pod with a number.
pub(crate) fn addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, u16::from(number));
    (Ipv4Addr::new(10, 244, 0, number), v6)
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let mut state = state.lock().expect("state");
    Ok(match path.as_str() {
        "/v1/cni/allocate" => allocate(&mut state, &body),
        "/v1/cni/ready" => {
            let ready: ReadyRequest = serde_json::from_slice(&body).expect("a request");
            assert_eq!(ready.mac.len(), 17);
            if state.refuses {
                return Ok(refuse("asked to refuse"));
            }
            let known = state.attached.get_mut(&ready.attachment).expect("allocated before");
            known.2 = ready.host_ifindex;
            json(&())
        }
        "/v1/cni/release" => {
            let attachment: Attachment = serde_json::from_slice(&body).expect("a request");
            state.attached.remove(&attachment);
            json(&())
        }
        "/v1/cni/check" => {
            let check: CheckRequest = serde_json::from_slice(&body).expect("a request");
            match state.attached.get(&check.attachment) {
                Some((_, number, index)) if *index == check.host_ifindex => {
                    let (v4, v6) = addresses(*number);
                    assert_eq!(check.addresses, [IpAddr::V4(v4), IpAddr::V6(v6)]);
                    json(&())
                }
                _ => refuse("unknown attachment"),
            }
        }
        "/v1/cni/gc" => {
            let request: GcRequest = serde_json::from_slice(&body).expect("a request");
            let gone: Vec<Attachment> =
                state.attached.keys().filter(|a| !request.valid.contains(a)).cloned().collect();
            let removed_host_ifnames = gone
                .iter()
                .filter_map(|a| state.attached.remove(a))
                .map(|(_, n, _)| host_ifname(n))
                .collect();
            json(&GcResponse { removed_host_ifnames })
        }
        "/v1/cni/status" => json(&()),
        "/v1/dns" => {
            let line = format!("{}\n", state.dns);
            // One document, and then silence.
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from(line)))]);
            let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            Response::new(BodyExt::boxed(StreamBody::new(stream)))
        }
        path => {
            let pod = path.strip_prefix("/v1/pods/").and_then(|rest| rest.strip_suffix("/ready"));
            let pod = pod.unwrap_or_else(|| panic!("nobody asks for {path}"));
            state.ready.insert(pod.to_owned(), body == r#"{"ready":true}"#);
            json(&())
        }
    })
}

fn allocate(state: &mut State, body: &[u8]) -> Response<Body> {
    let request: AllocateRequest = serde_json::from_slice(body).expect("a request");
    state.next += 1;
    let number = state.next;
    let pod = format!("{}/{}", request.namespace, request.pod);
    state.attached.insert(request.attachment, (pod, number, 0));
    let (v4, v6) = addresses(number);
    json(&Allocation {
        endpoint_id: number.into(),
        addresses: vec![
            AllocatedAddress { ip: v4.into(), gateway: Ipv4Addr::new(169, 254, 1, 1).into() },
            AllocatedAddress { ip: v6.into(), gateway: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into() },
        ],
        host_ifname: host_ifname(number),
        mtu: 1400,
    })
}

/// Name of the host's end of the pod with a number.
pub(crate) fn host_ifname(number: u8) -> String {
    format!("hdl{number:08x}")
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("JSON");
    Response::new(Full::new(Bytes::from(bytes)).boxed())
}

fn refuse(error: &str) -> Response<Body> {
    let mut response = json(&ApiError { error: error.to_owned() });
    *response.status_mut() = StatusCode::CONFLICT;
    response
}
