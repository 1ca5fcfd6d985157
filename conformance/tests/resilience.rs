//! Processes die; traffic goes on, or fails closed.

use std::net::SocketAddr;
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::load::Load;
use conformance::manifests::PLAIN;
use conformance::{Node, eventually, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MANIFESTS: &str = conformance::manifests::HTTP;

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process lives");
}

#[test]
fn a_dead_proxy_fails_closed_and_l4_does_not_notice() {
    if !host::privileged("a_dead_proxy_fails_closed_and_l4_does_not_notice") {
        return;
    }
    let node = Node::builder("dead").file("http.yaml", &format!("{MANIFESTS}{PLAIN}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let seen = record(server.listen((server.ipv4(), 8080)));
    let _plain = record(server.listen((server.ipv4(), 9090)));
    let l7 = SocketAddr::from((server.ipv4(), 8080));
    let mut l4 = Connection::new(client.connect((server.ipv4(), 9090)).unwrap()).unwrap();
    assert_eq!(l4.request("GET", "/", &[]).unwrap().status, 200);
    let url = format!("http://{l7}/public/a");
    assert_eq!(client.curl(&[&url]).0, 200);
    // With the supervisor stopped nobody starts a new proxy; with the agent stopped nobody could help it.
    let (agent, proxy) = (node.agent_pid(), node.proxy_pid());
    signal(node.supervisor_pid(), Signal::SIGSTOP);
    signal(agent, Signal::SIGSTOP);
    signal(proxy, Signal::SIGKILL);
    eventually("the dead proxy is gone", Duration::from_secs(10), || {
        client.connect(l7).map_or(Ok(()), |_| Err("still connects".to_owned()))
    });
    while seen.try_recv().is_ok() {}
    for _ in 0..3 {
        assert_eq!(client.curl(&["-m", "1", &url]).0, 0, "no new L7 connection while the proxy is dead");
    }
    assert_eq!(seen.try_iter().count(), 0, "none passes unpoliced");
    assert_eq!(l4.request("GET", "/", &[]).unwrap().status, 200, "a live L4 connection goes on");
    assert_eq!(client.curl(&[&format!("http://{}:9090/", server.ipv4())]).0, 200, "and new ones work");
    signal(node.supervisor_pid(), Signal::SIGCONT);
    eventually("traffic flows again without the agent", Duration::from_secs(20), || {
        match client.curl(&["-m", "1", &url]).0 {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    assert_eq!(client.curl(&["-m", "2", "-XDELETE", &url]).0, 403, "and is policed");
    signal(agent, Signal::SIGCONT);
}

#[test]
fn the_agent_dies_twenty_times_under_load_and_no_request_fails() {
    /// Requests a second over all targets; half of them on new connections.
    const RATE: u32 = 1000;
    const KILLS: usize = 20;
    if !host::privileged("the_agent_dies_twenty_times_under_load_and_no_request_fails") {
        return;
    }
    let node = Node::builder("kills").file("http.yaml", &format!("{MANIFESTS}{PLAIN}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let ports = [(server.ipv4().into(), 8080), (server.ipv6().into(), 8080), (server.ipv4().into(), 9090)];
    for (address, port) in ports {
        drop(record(server.listen(SocketAddr::new(address, port))));
    }
    let targets: Vec<SocketAddr> = ports.into_iter().map(SocketAddr::from).collect();
    let load = Load::start(&client, &targets, "/public/a", RATE / targets.len() as u32);
    for _ in 0..KILLS {
        let pid = node.agent_pid();
        signal(pid, Signal::SIGKILL);
        eventually("another agent is ready", Duration::from_secs(60), || {
            let now = node.try_status()?;
            match now["agent"]["pid"].as_u64() {
                Some(new) if new != u64::from(pid) && now["ready"] == true => Ok(()),
                _ => Err(now.to_string()),
            }
        });
    }
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{} requests: {:#?}\n{}", tally.requests, tally.failures, node.log());
    assert!(tally.requests > 1000, "the load ran: {} requests", tally.requests);
}
