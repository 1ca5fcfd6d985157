//! One node with a client pod and a server pod; and the same namespaces without any program, for the peers and
//! as the measure of the L4 rows.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use conformance::netns::Netns;
use conformance::{Node, Pod, eventually};

use crate::load::{Plan, Report};
use crate::measure::{Row, cpu_of, rss_of};
use crate::peers::{Peer, find_envoy};

/// Core of the proxy under test; load and servers run on the other.
const PROXY_CORE: usize = 1;
const LOAD_CORE: usize = 0;
const MANIFESTS: &str = include_str!("manifests.yaml");
const NGINX: &str = include_str!("nginx.conf");

/// Everything that is measured, running.
#[derive(Debug)]
pub(crate) struct Bench {
    node: Node,
    client: Pod,
    server: Pod,
    proxy: u32,
    peers: Vec<(Peer, Child)>,
    bare: Bare,
    nginx: Child,
    _folder: tempfile::TempDir,
}

/// How a request gets from client to server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Heddle,
    /// Index into the peers.
    Peer(usize),
    /// The bare namespaces.
    Bare,
}

impl Way {
    /// Its name in the table.
    pub(crate) fn name(self, bench: &Bench) -> &'static str {
        match self {
            Self::Heddle => "Heddle",
            Self::Peer(index) => bench.peers[index].0.name,
            Self::Bare => "no programs",
        }
    }
}

/// Client, node and server without Heddle, routed in the same way. The peers run here, so that they do not pay
/// for Heddle's programs.
#[derive(Debug)]
struct Bare {
    client: Netns,
    node: Netns,
    _server: Netns,
    nginx: Child,
}

impl Bench {
    /// Starts the node, the servers and the peers.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let node = Node::builder("bench").file("bench.yaml", MANIFESTS).arg("--proxy-workers=1").start();
        let (client, server) = (node.pod("bench/client"), node.pod("bench/server"));
        let proxy = node.proxy_pid();
        pin(proxy, PROXY_CORE)?;
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, NGINX)?;
        let nginx = spawn_nginx(server.command("taskset"), &config, "server")?;
        let bare = Bare::start(&config)?;
        let mut peers = vec![];
        match find_envoy() {
            Some(program) => peers.push(Peer::envoy(folder.path(), program, Bare::SERVER)?),
            None => println!("Envoy is missing: its columns are left out"),
        }
        peers.push(Peer::haproxy(folder.path(), Bare::SERVER)?);
        let mut running = vec![];
        for peer in peers {
            let child = peer.start(&bare.node, PROXY_CORE)?;
            running.push((peer, child));
        }
        let bench = Self { node, client, server, proxy, peers: running, bare, nginx, _folder: folder };
        bench.wait_until_all_answer();
        Ok(bench)
    }

    /// The ways that a row compares, ours first.
    pub(crate) fn ways(&self, row: Row) -> Vec<Way> {
        let peers = (0..self.peers.len()).map(Way::Peer);
        match row {
            Row::L4 | Row::L4New => vec![Way::Heddle, Way::Bare],
            _ => std::iter::once(Way::Heddle).chain(peers).collect(),
        }
    }

    /// One figure.
    pub(crate) fn measure(&self, row: Row, way: Way, seconds: f32) -> Result<f64> {
        let pid = match way {
            Way::Peer(index) => self.peers[index].1.id(),
            _ => self.proxy,
        };
        let plan = |fresh, idle, connections| Plan {
            target: self.target(row, way),
            path: "/public/a".to_owned(),
            connections,
            seconds,
            fresh,
            idle,
        };
        match row {
            Row::Idle => rss_of(pid),
            Row::Idle1000 => {
                let load = Load::start(self.client_command(way), &plan(false, true, 1000))?;
                std::thread::sleep(Duration::from_secs_f32(seconds / 2.0));
                let rss = rss_of(pid)?;
                load.report()?;
                Ok(rss)
            }
            Row::H1 => self.per_request(way, &plan(false, false, 64), pid),
            Row::H1New => self.per_request(way, &plan(true, false, 16), pid),
            Row::L4 => self.both_ends(way, &plan(false, false, 64)),
            Row::L4New => self.both_ends(way, &plan(true, false, 16)),
            Row::H2 => self.h2load(way, self.target(row, way), seconds, pid),
        }
    }

    fn target(&self, row: Row, way: Way) -> SocketAddr {
        match (way, row) {
            (Way::Bare, _) => (Bare::SERVER, 8081).into(),
            (Way::Peer(index), Row::H2) => (Bare::NODE, self.peers[index].0.h2_port).into(),
            (Way::Peer(index), _) => (Bare::NODE, self.peers[index].0.h1_port).into(),
            (Way::Heddle, Row::H2) => (self.server.ipv4(), 8082).into(),
            (Way::Heddle, Row::L4 | Row::L4New) => (self.server.ipv4(), 8081).into(),
            (Way::Heddle, _) => (self.server.ipv4(), 8080).into(),
        }
    }

    fn client_command(&self, way: Way) -> Command {
        let mut command = match way {
            Way::Bare | Way::Peer(_) => self.bare.client.command("taskset"),
            Way::Heddle => self.client.command("taskset"),
        };
        command.args(["-c", &LOAD_CORE.to_string()]);
        command
    }

    /// CPU time of process `pid` per request.
    fn per_request(&self, way: Way, plan: &Plan, pid: u32) -> Result<f64> {
        let (report, used) = self.load(way, plan, pid)?;
        Ok(used / report.requests as f64)
    }

    /// CPU time of client and server per request.
    fn both_ends(&self, way: Way, plan: &Plan) -> Result<f64> {
        let server = if let Way::Bare = way { &self.bare.nginx } else { &self.nginx };
        let (report, used) = self.load(way, plan, server.id())?;
        Ok((used + report.cpu) / report.requests as f64)
    }

    fn load(&self, way: Way, plan: &Plan, pid: u32) -> Result<(Report, f64)> {
        let load = Load::start(self.client_command(way), plan)?;
        let before = cpu_of(pid)?;
        let report = load.report()?;
        let used = cpu_of(pid)? - before;
        if report.failures > 0 || report.requests == 0 {
            bail!("{} of {} requests failed", report.failures, report.requests);
        }
        Ok((report, used))
    }

    /// What the proxy counted: proof that requests took the whole path.
    pub(crate) fn records(&self) -> Result<String> {
        let mut curl = self.node.netns().command("curl");
        let output = curl.args(["-sf", "-m", "5", "http://127.0.0.1:15000/stats"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with("config"));
        Ok(format!("the proxy's counters: {}", lines.collect::<Vec<_>>().join(", ")))
    }

    /// h2load: 8 connections of 16 streams.
    fn h2load(&self, way: Way, target: SocketAddr, seconds: f32, pid: u32) -> Result<f64> {
        let mut command = self.client_command(way);
        let duration = format!("{}ms", (seconds * 1000.0).round());
        command.args([
            "h2load",
            "-c",
            "8",
            "-m",
            "16",
            "-D",
            &duration,
            &format!("http://{target}/public/a"),
        ]);
        let before = cpu_of(pid)?;
        let output = command.stdin(Stdio::null()).output().context("h2load")?;
        let used = cpu_of(pid)? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        // requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout
        let line =
            text.lines().find(|line| line.starts_with("requests:")).context("h2load gave no result")?;
        let number = |word: &str| -> Option<f64> {
            line.split(", ").find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        let done = number("succeeded").context("h2load: no count")?;
        if done == 0.0 || number("failed") != Some(0.0) {
            bail!("h2load: {line}");
        }
        Ok(used / done)
    }

    /// Waits until every system serves what policy allows and (but for L4) refuses what it does not.
    fn wait_until_all_answer(&self) {
        for row in [Row::H1, Row::H2, Row::L4] {
            for way in self.ways(row) {
                let target = self.target(row, way);
                self.wait_for(row, way, &format!("http://{target}/public/a"), "200");
                if row != Row::L4 {
                    self.wait_for(row, way, &format!("http://{target}/private"), "403");
                }
            }
        }
    }

    fn wait_for(&self, row: Row, way: Way, url: &str, status: &str) {
        let version = if row == Row::H2 { "--http2-prior-knowledge" } else { "--http1.1" };
        eventually("answer of every system", Duration::from_secs(20), || {
            let mut curl = self.client_command(way);
            curl.args(["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", version, url]);
            let output = curl.output().map_err(|e| e.to_string())?;
            let got = String::from_utf8_lossy(&output.stdout);
            if got == status { Ok(()) } else { Err(format!("{way:?} {url}: {got}, not {status}")) }
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let children = self.peers.iter_mut().map(|(_, child)| child).chain([&mut self.nginx]);
        for child in children.chain([&mut self.bare.nginx]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running load generator.
#[derive(Debug)]
struct Load {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Load {
    /// Starts it and waits until it is up.
    fn start(mut command: Command, plan: &Plan) -> Result<Self> {
        command.arg(std::env::current_exe()?).arg("load").arg(serde_json::to_string(plan)?);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("load")?;
        let output = BufReader::new(child.stdout.take().context("load has no output")?);
        let mut load = Self { child, output };
        if load.line()?.trim() != "ready" {
            bail!("the load generator did not get ready");
        }
        Ok(load)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Waits for its end.
    fn report(mut self) -> Result<Report> {
        let report = serde_json::from_str(&self.line()?).context("the load generator gave no report")?;
        self.child.wait()?;
        Ok(report)
    }
}

impl Bare {
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 251, 0, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 251, 0, 3);

    fn start(config: &Path) -> Result<Self> {
        let (node, client, server) = (Netns::new("bare"), Netns::new("bare-c"), Netns::new("bare-s"));
        node.sysctl(&["net.ipv4.ip_forward=1"]);
        node.ip(&format!("addr add {}/32 dev lo", Self::NODE));
        for (pod, device, address) in [(&client, "c", "10.251.0.2"), (&server, "s", "10.251.0.3")] {
            node.ip(&format!("link add {device} type veth peer name eth0 netns {}", pod.name()));
            node.ip(&format!("link set {device} up"));
            node.ip(&format!("addr add 169.254.1.1/32 dev {device}"));
            node.ip(&format!("route add {address}/32 dev {device}"));
            pod.ip(&format!("addr add {address}/32 dev eth0"));
            pod.ip("link set eth0 up");
            pod.ip("route add 169.254.1.1 dev eth0");
            pod.ip("route add default via 169.254.1.1");
        }
        let nginx = spawn_nginx(server.command("taskset"), config, "bare")?;
        Ok(Self { client, node, _server: server, nginx })
    }
}

fn spawn_nginx(mut command: Command, config: &Path, name: &str) -> Result<Child> {
    let pid = format!("pid {};", config.with_file_name(format!("{name}.pid")).display());
    command.args(["-c", &LOAD_CORE.to_string(), "nginx", "-g", &pid, "-c"]).arg(config);
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("nginx")
}

fn pin(pid: u32, core: usize) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-a", "-p", "-c", &core.to_string(), &pid.to_string()]).stdout(Stdio::null());
    if !command.status()?.success() {
        bail!("taskset: cannot pin process {pid}");
    }
    Ok(())
}
