//! A running proxy and everything around it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::{ListenerSlot, PolicyKey, verdict_code};
use l7_proxy::wire::{self, ConfigUpdate, Flow};
use l7_proxy::{Bind, ConnectionRecord, Kernel, Limits, Settings};
use tokio::sync::oneshot;

use crate::agent::FakeAgent;

/// Longest wait for something that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const CLIENT_IDENTITY: u32 = 300;
pub(crate) const SERVER_IDENTITY: u32 = 301;
pub(crate) const CLIENT_ENDPOINT: u32 = 1;
pub(crate) const SERVER_ENDPOINT: u32 = 2;

/// What the kernel would know.
#[derive(Debug)]
pub(crate) struct FakeKernel {
    state: Mutex<KernelState>,
}

#[derive(Debug)]
struct KernelState {
    listeners: Vec<(ListenerSlot, SocketAddr)>,
    record: Option<ConnectionRecord>,
    destination: SocketAddr,
}

impl Kernel for FakeKernel {
    fn publish_listener(&self, slot: ListenerSlot, listener: BorrowedFd<'_>) -> io::Result<()> {
        let address = socket2::SockRef::from(&listener).local_addr()?.as_socket().expect("an IP address");
        self.state.lock().expect("lock").listeners.push((slot, address));
        Ok(())
    }

    fn connection(&self, _: SocketAddr, _: SocketAddr) -> io::Result<Option<ConnectionRecord>> {
        Ok(self.state.lock().expect("lock").record)
    }

    fn original_destination(&self, _: SocketAddr, _: SocketAddr) -> SocketAddr {
        self.state.lock().expect("lock").destination
    }
}

/// The record of a client pod that goes to a server elsewhere.
pub(crate) fn record() -> ConnectionRecord {
    ConnectionRecord {
        src_identity: CLIENT_IDENTITY,
        dst_identity: SERVER_IDENTITY,
        src_endpoint: CLIENT_ENDPOINT,
        dst_endpoint: 0,
        vip: false,
        ingress: false,
        revision: 1,
    }
}

/// A policy map entry for every peer and TCP port of a direction.
pub(crate) fn entry(direction: u32, verdict: u8) -> wire::PolicyMapEntry {
    wire::PolicyMapEntry {
        prefix_len: PolicyKey::PREFIX_PROTO,
        identity: 0,
        direction,
        proto: 6,
        port: 0,
        precedence: 1,
        rule: 7,
        verdict: verdict.into(),
    }
}

pub(crate) fn rule(method: Option<&str>, path: Option<&str>) -> wire::HttpRule {
    wire::HttpRule {
        method: method.map(Into::into),
        path: path.map(Into::into),
        host: None,
        headers: Vec::new(),
    }
}

/// An endpoint whose `direction` (1 = egress) goes through `rules`.
pub(crate) fn endpoint(id: u32, direction: u32, verdict: u8, rules: Vec<wire::HttpRule>) -> wire::Endpoint {
    let rule_set = wire::L7RuleSet {
        direction,
        any_peer: true,
        peers: Vec::new(),
        first_port: 0,
        last_port: 65535,
        rule: 7,
        http: rules,
    };
    wire::Endpoint {
        id,
        identity: CLIENT_IDENTITY,
        namespace: "default".into(),
        name: format!("pod-{id}"),
        addresses: Vec::new(),
        entries: vec![entry(direction, verdict)],
        l7: if verdict == verdict_code::REDIRECT_STRICT { vec![rule_set] } else { Vec::new() },
    }
}

/// Revision 1: the client may GET, POST and PUT below /public/, and look at /ok.
pub(crate) fn public_only() -> ConfigUpdate {
    let rules = vec![rule(None, Some("/public/.*")), rule(Some("GET"), Some("/ok"))];
    with_endpoint(endpoint(CLIENT_ENDPOINT, 1, verdict_code::REDIRECT_STRICT, rules))
}

/// Revision 1 with one endpoint and everybody on loopback known as the server.
pub(crate) fn with_endpoint(endpoint: wire::Endpoint) -> ConfigUpdate {
    let prefix =
        wire::Prefix { prefix: "127.0.0.0/8".into(), identity: SERVER_IDENTITY, endpoint: 0, flags: 0 };
    ConfigUpdate {
        revision: 1,
        full: true,
        endpoints: vec![endpoint],
        ipcache: vec![prefix],
        ..ConfigUpdate::default()
    }
}

/// A proxy that runs in this process until dropped.
pub(crate) struct Proxy {
    pub(crate) kernel: Arc<FakeKernel>,
    pub(crate) agent: FakeAgent,
    pub(crate) settings: Settings,
    _folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Serves `config`; everybody goes to `destination`.
    pub(crate) fn start(config: ConfigUpdate, destination: SocketAddr) -> Self {
        Self::start_with(config, destination, Limits::default())
    }

    pub(crate) fn start_with(config: ConfigUpdate, destination: SocketAddr, limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let agent = FakeAgent::start(&folder.path().join("proxy.sock"), config);
        let mut proxy = Self::without_agent(folder, agent, destination, limits);
        proxy.run();
        proxy.agent.wait_for_ack();
        proxy.wait_until_ready();
        proxy
    }

    fn without_agent(
        folder: tempfile::TempDir,
        agent: FakeAgent,
        destination: SocketAddr,
        limits: Limits,
    ) -> Self {
        let settings = Settings {
            workers: 1,
            egress_port: 0,
            ingress_port: 0,
            admin: free_address(),
            metrics: free_address(),
            agent_socket: folder.path().join("proxy.sock"),
            state_dir: folder.path().to_owned(),
            bind: Bind::Loopback,
            limits,
            ..Settings::default()
        };
        let state = KernelState { listeners: Vec::new(), record: Some(record()), destination };
        let kernel = Arc::new(FakeKernel { state: Mutex::new(state) });
        Self { kernel, agent, settings, _folder: folder, stop: None, thread: None }
    }

    fn run(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (settings, kernel) = (self.settings.clone(), Arc::clone(&self.kernel));
        self.stop = Some(stop);
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let stop = async {
                let _ = stopped.await;
            };
            let outcome = runtime.expect("a runtime").block_on(l7_proxy::run(settings, kernel, stop));
            outcome.expect("the proxy runs");
        }));
    }

    fn wait_until_ready(&self) {
        until("the proxy is ready", || self.admin("/ready").is_some_and(|text| text.contains(" 200 ")));
    }

    /// Tells the proxy to end, without waiting.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a clean end");
        }
    }

    /// Stops it and starts another one on the same state, with no agent there.
    pub(crate) fn restart_without_agent(&mut self) {
        self.begin_stop();
        self.join();
        self.agent.stop();
        self.kernel.state.lock().expect("lock").listeners.clear();
        self.run();
        self.wait_until_ready();
    }

    pub(crate) fn set_record(&self, record: Option<ConnectionRecord>) {
        self.kernel.state.lock().expect("lock").record = record;
    }

    /// The whole answer of the admin interface.
    pub(crate) fn admin(&self, path: &str) -> Option<String> {
        get(self.settings.admin, path)
    }

    pub(crate) fn metrics(&self) -> String {
        get(self.settings.metrics, "/metrics").expect("metrics")
    }

    /// A connection to the egress listener.
    pub(crate) fn connect(&self) -> Client {
        let listeners = self.kernel.state.lock().expect("lock").listeners.clone();
        let (_, address) =
            listeners.iter().find(|(slot, _)| *slot == ListenerSlot::EgressV4).expect("a listener");
        Client::new(TcpStream::connect(address).expect("a connection"))
    }

    /// Sends raw bytes on a new connection and returns everything until its end.
    pub(crate) fn exchange(&self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let mut client = self.connect();
        client.send(bytes);
        client.rest()
    }

    /// Waits for a record that `wanted` likes.
    pub(crate) fn flow(&self, wanted: impl Fn(&Flow) -> bool) -> Flow {
        self.agent.flow(wanted)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.begin_stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

/// A raw client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SOON)).expect("a time-out");
        Self { stream }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The proxy may have closed already: then the answer tells.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Everything until the end of the connection, however it ends.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return all,
                Ok(count) => all.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return all,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&all)),
            }
        }
    }

    /// The connection ends by RST, without a byte.
    pub(crate) fn expect_reset(&mut self) {
        let error = self.stream.read(&mut [0; 16]).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// One response with Content-Length or without a body: status, head and body.
    pub(crate) fn response(&mut self) -> (u16, String, Vec<u8>) {
        let head = self.read_until(b"\r\n\r\n");
        let head = String::from_utf8(head).expect("text");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).expect("a body");
        (status, head, body)
    }

    pub(crate) fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut byte = [0];
        while !all.ends_with(end) {
            match self.stream.read(&mut byte) {
                Ok(1) => all.push(byte[0]),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
            }
        }
        all
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn status_of(answer: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(answer);
    text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 "))?.get(..3)?.parse().ok()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// A free address that nobody else asks for: on a loopback address of its own, where no port of another test
/// and no outgoing connection can take the port between this look and its use.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = std::net::TcpListener::bind((own, 0)).expect("a port");
    listener.local_addr().expect("an address")
}
