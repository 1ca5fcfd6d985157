//! The whole API over a socket: a real HTTP client, server, publisher and records; the kernel and the source
//! are recorders.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use abi::Config;
use policy::snapshot::Endpoint;
use policy::{CompiledPolicy, Snapshot};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};

use super::client::Client;
use super::types::{Endpoints, Status};
use super::*;
use crate::agent::attach::EndpointTable;
use crate::agent::endpoints::{self, Record};
use crate::agent::{Pods, RegisterError};
use crate::flows::{Flow, FlowLog, FlowVerdict};
use crate::metrics::Metrics;
use crate::publish::kernel::KernelHandle;
use crate::publish::proxy::ProxyHub;
use crate::publish::testing::Recorder;
use crate::publish::{Parts, Publisher};
use crate::sources;

/// A source that knows pod shop/web and puts whatever is registered into the snapshot.
#[derive(Debug)]
struct Source(watch::Sender<Arc<sources::Published>>);

impl Source {
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.0.send_modify(|published| {
            let mut snapshot = (*published.snapshot).clone();
            change(&mut snapshot);
            snapshot.revision += 1;
            *published =
                Arc::new(sources::Published { snapshot: Arc::new(snapshot), ..(**published).clone() });
        });
    }
}

impl Pods for Source {
    fn known(&self, namespace: &str, name: &str, _uid: &str) -> Result<(), RegisterError> {
        let known = (namespace, name) == ("shop", "web");
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        if known { Ok(()) } else { Err(RegisterError::NoManifest { namespace, name }) }
    }

    fn arrival_max(&self) -> Duration {
        Duration::ZERO
    }

    fn has_readiness_probe(&self, _record: &Record) -> bool {
        true
    }

    fn register(&self, record: &Record) {
        let pod = Endpoint {
            id: record.id,
            namespace: record.namespace.clone(),
            name: record.pod.clone(),
            addresses: record.addresses.clone(),
            identity: 300,
            ready: record.ready,
            ..Endpoint::default()
        };
        self.change(|snapshot| drop(snapshot.endpoints.insert(record.pod_key(), Arc::new(pod))));
    }

    fn unregister(&self, record: &Record) {
        self.change(|snapshot| drop(snapshot.endpoints.remove(&record.pod_key())));
    }

    fn set_node_addresses(&self, _addresses: Vec<std::net::IpAddr>) {}

    fn problems(&self) -> Vec<types::Problem> {
        Vec::new()
    }

    fn subscribe(&self) -> watch::Receiver<Arc<sources::Published>> {
        self.0.subscribe()
    }
}

struct Fixture {
    client: Client,
    flows: FlowLog,
    recorder: crate::publish::testing::Log,
    _dir: tempfile::TempDir,
}

async fn start() -> Fixture {
    let dir = tempfile::tempdir().expect("a folder");
    let recorder = Recorder::default();
    let log = recorder.log.clone();
    let kernel = KernelHandle::start(recorder, Config::default()).expect("a thread");
    let (flow_sender, _) = mpsc::channel(1);
    let metrics = Metrics::default();
    let proxies = ProxyHub::new(flow_sender, metrics.flows_lost.clone());
    let mut records = endpoints::Endpoints::open(dir.path()).expect("state");
    records.use_pod_cidrs(&["10.0.0.0/24".parse().expect("a CIDR")]).expect("room");
    let records = Arc::new(EndpointTable::new(records));
    let (published, wake) = (watch::Sender::default(), Arc::new(Notify::new()));
    let source = Source(watch::Sender::default());
    source.change(|snapshot| snapshot.node = "n1".into());
    let receiver = published.subscribe();
    let compile = |snapshot: &Snapshot| CompiledPolicy {
        endpoints: snapshot.endpoints.values().map(|pod| (pod.id, Arc::default())).collect(),
        ..CompiledPolicy::default()
    };
    let publisher = Publisher::new(Parts {
        kernel: kernel.clone(),
        proxies: proxies.clone(),
        veths: records.clone(),
        published,
        wake: wake.clone(),
        compile: Box::new(compile),
        revision: 0,
        mark: crate::publish::mark::MarkFile::default(),
        publications: metrics.publications.clone(),
    });
    tokio::spawn(publisher.run(source.subscribe()));
    let flows = FlowLog::default();
    let instance: crate::layout::Instance = "test".parse().expect("a name");
    let agent = Agent {
        instance: instance.clone(),
        mtu: 1450,
        published: receiver,
        proxies,
        flows: flows.clone(),
        metrics,
        kernel,
        connections: Mutex::default(),
        endpoints: records,
        attach_failures: Mutex::default(),
        readiness: Mutex::new(HashMap::new()),
        plugin_problem: Mutex::new(None),
        wake,
        pods: Box::new(source),
        cluster_dns: false,
        plumbing: None,
    };
    let mut ready = agent.published.clone();
    ready.wait_for(|state| state.revision == 1).await.expect("published");
    let socket = dir.path().join("agent.sock");
    let listener = bind(&socket, 0o600).expect("a socket");
    tokio::spawn(serve(Arc::new(agent), listener));
    Fixture { client: Client::at(&instance, socket), flows, recorder: log, _dir: dir }
}

fn attachment() -> Value {
    json!({ "containerId": "c1", "ifname": "eth0" })
}

fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_allocate_to_release() {
    let node = start().await;
    let client = &node.client;
    let request = with(attachment(), json!({ "namespace": "shop", "pod": "web", "uid": "" }));
    let allocated: Value = client.post("/v1/cni/allocate", &request).await.expect("an address");
    assert_eq!(allocated["addresses"], json!([{ "ip": "10.0.0.2", "gateway": "169.254.1.1" }]));
    assert_eq!(allocated["mtu"], 1450);
    let again: Value = client.post("/v1/cni/allocate", &request).await.expect("the same");
    assert_eq!(again, allocated);

    // The loopback device stands in for the veth: it has an index in every namespace.
    let ready = with(attachment(), json!({ "hostIfindex": 1, "mac": "02:00:00:00:00:01" }));
    let _: Value = client.post("/v1/cni/ready", &ready).await.expect("policy in the kernel");
    let log = node.recorder.lock().expect("the log").join("; ");
    assert!(log.contains("policies [1]; attach 1 to 1"), "{log}");

    let list: Endpoints = client.get("/v1/endpoints").await.expect("a list");
    assert_eq!((list.endpoints[0].name.as_str(), list.endpoints[0].state.as_str()), ("web", "not ready"));
    let _: Value = client.post("/v1/pods/shop/web/ready", &json!({ "ready": true })).await.expect("noted");
    let end = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let list: Endpoints = client.get("/v1/endpoints").await.expect("a list");
        if list.endpoints[0].ready {
            break;
        }
        assert!(std::time::Instant::now() < end, "{list:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let check = |ip: &str| with(attachment(), json!({ "hostIfindex": 1, "addresses": [ip] }));
    let _: Value = client.post("/v1/cni/check", &check("10.0.0.2")).await.expect("as recorded");
    let error = client.post::<_, Value>("/v1/cni/check", &check("10.0.0.9")).await.expect_err("another");
    assert!(error.to_string().contains("recorded was 10.0.0.2"), "{error}");

    let gone: Value = client.post("/v1/cni/gc", &json!({ "valid": [] })).await.expect("collected");
    assert_eq!(gone["removedHostIfnames"], json!([allocated["hostIfname"]]));
    let _: Value = client.post("/v1/cni/release", &attachment()).await.expect("twice is no error");
    assert!(client.get::<Endpoints>("/v1/endpoints").await.expect("a list").endpoints.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_no_more_gets_nothing() {
    let node = start().await;
    let pod = with(attachment(), json!({ "namespace": "shop", "pod": "web" }));
    let until = |ms: u64| with(pod.clone(), json!({ "wantedUntilMs": ms }));
    let late = until(crate::cni::monotonic_ms().saturating_sub(1));
    let error = node.client.post::<_, Value>("/v1/cni/allocate", &late).await.expect_err("too late");
    assert!(error.to_string().contains("waits no more"), "{error}");
    assert!(node.client.get::<Endpoints>("/v1/endpoints").await.expect("a list").endpoints.is_empty());
    let status: Status = node.client.get("/v1/status").await.expect("a status");
    let problem = status.problems.iter().find(|p| p.object == "Pod shop/web").expect("it is told");
    assert!(problem.message.starts_with("cannot be attached: the plugin waits no more"), "{problem:?}");

    let in_time = until(crate::cni::monotonic_ms() + 60_000);
    let _: Value = node.client.post("/v1/cni/allocate", &in_time).await.expect("an address");
    let ready = with(attachment(), json!({ "hostIfindex": 1, "mac": "02:00:00:00:00:01" }));
    let _: Value = node.client.post("/v1/cni/ready", &ready).await.expect("attached");
    let status: Status = node.client.get("/v1/status").await.expect("a status");
    assert!(status.problems.iter().all(|p| p.object != "Pod shop/web"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_is_missing() {
    let node = start().await;
    let request = with(attachment(), json!({ "namespace": "shop", "pod": "nobody" }));
    let error = node.client.post::<_, Value>("/v1/cni/allocate", &request).await.expect_err("no manifest");
    let expected =
        "pod shop/nobody has no manifest: add a Pod named nobody in namespace shop to the manifests";
    assert_eq!(error.to_string(), expected);
    let error = node.client.post::<_, Value>("/v1/cni/allocate", &json!({})).await.expect_err("no fields");
    assert!(error.to_string().contains("missing field `namespace`"), "{error}");
    let error = node.client.get::<Value>("/v1/flows?verdict=maybe").await.expect_err("no verdict");
    assert!(error.to_string().starts_with("parameter verdict: "), "{error}");
    let error = node.client.get::<Value>("/v1/nothing").await.expect_err("no such path");
    assert!(error.to_string().contains("GET /v1/nothing"), "{error}");
    let instance: crate::layout::Instance = "test".parse().expect("a name");
    let nowhere = Client::at(&instance, "/run/nowhere/agent.sock".into());
    let error = nowhere.get::<Status>("/v1/status").await.expect_err("nobody there");
    assert!(error.to_string().starts_with("agent is not running for instance test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_proxy_is_not_ready_and_says_so() {
    let node = start().await;
    let status: Status = node.client.get("/v1/status").await.expect("a status");
    assert_eq!((status.revision, status.ready, status.node.as_str()), (1, false, "n1"));
    assert_eq!(status.problems[0].object, "proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_filtered_and_followed() {
    let node = start().await;
    let flow = |verdict, revision| Flow { verdict, revision, ..Flow::default() };
    node.flows.push(flow(FlowVerdict::Forwarded, 1));
    node.flows.push(flow(FlowVerdict::Dropped, 2));
    let (sender, mut seen) = mpsc::unbounded_channel();
    let client = node.client.clone();
    tokio::spawn(async move {
        let take = |line: &str| {
            let flow: Flow = serde_json::from_str(line).expect("a flow");
            sender.send(flow.revision).is_ok()
        };
        client.lines("/v1/flows?last=10&follow=true&verdict=dropped", take).await
    });
    assert_eq!(seen.recv().await, Some(2));
    node.flows.push(flow(FlowVerdict::Forwarded, 3));
    node.flows.push(flow(FlowVerdict::Dropped, 4));
    assert_eq!(seen.recv().await, Some(4));
}
