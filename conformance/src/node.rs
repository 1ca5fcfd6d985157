//! A whole node in a network namespace of its own: `heddle run` with its pods, and a "world" behind its NIC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::{program, run};
use crate::netns::{Netns, inside};
use crate::wait::eventually;

/// How long a node may take to come up, and a pod to be ready. Debug builds on a busy machine are slow.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to leave nothing behind.
const STOP_MAX: Duration = Duration::from_secs(30);

/// How long a change of manifests may take to be in force, on a busy machine.
const CHANGE_MAX: Duration = Duration::from_secs(15);

/// What a node is started with.
#[derive(Debug, Default)]
pub struct NodeBuilder {
    name: String,
    files: Vec<(String, String)>,
    arguments: Vec<String>,
    no_pods: bool,
}

impl NodeBuilder {
    /// Adds a manifest file.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Adds an argument of `heddle run`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Leaves the pods to a container runtime: the test itself.
    pub fn without_pods(mut self) -> Self {
        self.no_pods = true;
        self
    }

    /// Starts the node and waits until it is ready.
    pub fn start(self) -> Node {
        Node::start(self)
    }
}

/// A running node. Ends, and removes what it made, on drop.
#[derive(Debug)]
pub struct Node {
    instance: String,
    netns: Netns,
    world: Netns,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Begins to describe a node; `name` becomes part of its instance name.
    pub fn builder(name: &str) -> NodeBuilder {
        NodeBuilder { name: name.to_owned(), ..NodeBuilder::default() }
    }

    fn start(builder: NodeBuilder) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("t{}-{number}-{}", std::process::id(), builder.name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (netns, world) = (Netns::new("node"), Netns::new("world"));
        connect(&netns, &world);
        let mut arguments = builder.arguments;
        if !builder.no_pods {
            arguments.push("--run-pods".to_owned());
        }
        let mut node = Self { instance, netns, world, folder, arguments, child: None };
        std::fs::create_dir(node.manifests()).expect("a folder for manifests");
        for (name, text) in &builder.files {
            node.apply(name, text);
        }
        node.run();
        node
    }

    /// Starts `heddle run` (again) and waits until it is ready.
    pub fn run(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        // As from a terminal, also where the tests themselves run under nohup.
        let mut command = self.netns.command("env");
        command.arg("--default-signal=HUP").arg(program("heddle"));
        command.args(["run", "--instance", &self.instance, "--node-name", "node", "--manifests"]);
        command.arg(self.manifests()).args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        self.child = Some(command.spawn().expect("heddle runs"));
        eventually("the node is ready", START_MAX, || self.is_ready());
    }

    fn is_ready(&self) -> Result<(), String> {
        let status = self.try_status()?;
        if status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    }

    /// What `heddle status -o json` says, or why it says nothing.
    pub fn try_status(&self) -> Result<Value, String> {
        let output = self.heddle(&["status", "-o", "json"]).output().map_err(|e| e.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("{}\n{}", String::from_utf8_lossy(&output.stderr), self.log()))
    }

    /// Waits until `heddle run` has ended by itself; whether it says that all went well.
    pub fn ended(&mut self) -> bool {
        let mut child = self.child.take().expect("the node runs");
        eventually("the node has ended", STOP_MAX, || match child.try_wait() {
            Ok(Some(status)) => Ok(status.success()),
            other => Err(format!("{other:?}\n{}", self.log())),
        })
    }

    /// Process id of `heddle run` itself.
    pub fn supervisor_pid(&self) -> u32 {
        // nsenter and env execute heddle in their own place.
        self.child.as_ref().expect("the node runs").id()
    }

    /// Writes a manifest file, atomically.
    pub fn apply(&self, name: &str, text: &str) {
        let temporary = self.folder.path().join("new");
        std::fs::write(&temporary, text).expect("write a manifest");
        std::fs::rename(temporary, self.manifests().join(name)).expect("place a manifest");
    }

    /// Removes a manifest file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifests().join(name)).expect("remove a manifest");
    }

    /// The watched folder.
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What the node's processes logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A `heddle` command for this node.
    pub fn heddle(&self, words: &[&str]) -> Command {
        let mut command = self.netns.command(program("heddle"));
        command.arg("--instance").arg(&self.instance).args(words).stdin(Stdio::null());
        command
    }

    /// What a `heddle ... -o json` command prints; panics if it fails.
    pub fn json(&self, words: &[&str]) -> Value {
        let output = run(self.heddle(words).args(["-o", "json"]));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The node's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The namespace on the other side of the node's NIC.
    pub fn world(&self) -> &Netns {
        &self.world
    }

    /// The node's address on its NIC.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 1)
    }

    /// The world's addresses.
    pub fn world_addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> u32 {
        self.pid_of("agent")
    }

    /// Process id of the proxy.
    pub fn proxy_pid(&self) -> u32 {
        self.pid_of("proxy")
    }

    fn pid_of(&self, process: &str) -> u32 {
        eventually(process, START_MAX, || {
            let status = self.try_status()?;
            status[process]["pid"].as_u64().map(|pid| pid as u32).ok_or_else(|| status.to_string())
        })
    }

    /// A pod by `namespace/name` for commands, without looking for it; it has no addresses.
    pub fn running_pod(&self, key: &str) -> Pod {
        Pod { key: key.to_owned(), instance: self.instance.clone(), addresses: Vec::new() }
    }

    /// A pod by `namespace/name`, once it is ready.
    pub fn pod(&self, key: &str) -> Pod {
        eventually(&format!("pod {key} is ready"), START_MAX, || {
            let output =
                self.heddle(&["endpoint", "list", "-o", "json"]).output().map_err(|e| e.to_string())?;
            let list: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
            let all = list["endpoints"].as_array().cloned().unwrap_or_default();
            let name = |e: &Value| format!("{}/{}", text(&e["namespace"]), text(&e["name"]));
            let endpoint = all.iter().find(|e| name(e) == key && e["ready"] == true);
            let endpoint = endpoint.ok_or_else(|| format!("{list}\n{}", self.log()))?;
            let addresses: Vec<IpAddr> = endpoint["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|address| text(address).parse().ok())
                .collect();
            Ok(Pod { key: key.to_owned(), instance: self.instance.clone(), addresses })
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A NIC between the node and the world, both families, routes on both sides.
fn connect(node: &Netns, world: &Netns) {
    node.sysctl(&["net.ipv6.conf.default.accept_dad=0", "net.ipv4.ip_forward=1"]);
    world.sysctl(&["net.ipv6.conf.default.accept_dad=0"]);
    node.ip(&format!("link add wan0 type veth peer name wan0 netns {}", world.name()));
    for (netns, v4, v6) in
        [(node, "192.0.2.1/24", "2001:db8::1/64"), (world, "192.0.2.2/24", "2001:db8::2/64")]
    {
        netns.ip(&format!("addr add {v4} dev wan0"));
        netns.ip(&format!("addr add {v6} dev wan0 nodad"));
        netns.ip("link set wan0 up");
    }
    node.ip("route add default via 192.0.2.2");
    node.ip("-6 route add default via 2001:db8::2");
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of node {}\n{}\n----", self.instance, self.log());
        }
        let Some(mut child) = self.child.take() else { return };
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("node {} did not end within {STOP_MAX:?}", self.instance);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A pod of a node.
#[derive(Clone, Debug)]
pub struct Pod {
    key: String,
    instance: String,
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        let mut all = self.addresses.iter();
        all.find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).expect("an IPv4 address")
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        let mut all = self.addresses.iter();
        all.find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }).expect("an IPv6 address")
    }

    /// A command that runs inside the pod: its namespaces and its cgroup.
    pub fn command(&self, words: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program("heddle"));
        command.args(["--instance", &self.instance, "exec", &self.key, "--"]).arg(words);
        command
    }

    /// Runs curl in the pod and gives status code and body; status 0 if there was no answer.
    pub fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let mut command = self.command("curl");
        command.args(["-sS", "-m", "10", "-w", "\n%{http_code}"]).args(arguments).stdin(Stdio::null());
        let Output { stdout, .. } = command.output().expect("curl runs");
        let all = String::from_utf8_lossy(&stdout).into_owned();
        let (body, status) = all.rsplit_once('\n').unwrap_or(("", "0"));
        (status.trim().parse().unwrap_or(0), body.to_owned())
    }

    /// Waits until a GET from the pod gets this status; 0 = no answer.
    pub fn becomes(&self, node: &Node, url: &str, want: u16) {
        eventually(&format!("{url} gives {want}"), CHANGE_MAX, || match self.curl(&["-m", "1", url]).0 {
            status if status == want => Ok(()),
            other => Err(format!("{other}\n{}", node.log())),
        });
    }

    /// The file of its network namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(format!("hdl-{}-{}", self.instance, self.key.replace('/', "_")))
    }

    /// Connects from inside the pod's network namespace.
    pub fn connect(&self, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
        let to = to.into();
        inside(&self.netns(), move || TcpStream::connect_timeout(&to, Duration::from_secs(5)))
    }

    /// Listens inside the pod's network namespace.
    pub fn listen(&self, on: impl Into<SocketAddr>) -> TcpListener {
        let on = on.into();
        inside(&self.netns(), move || TcpListener::bind(on)).expect("listen in the pod")
    }
}
