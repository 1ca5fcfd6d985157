//! The plugin alone, as a container runtime calls it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::agent::{Agent, addresses, host_ifname};
use crate::ip;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A network namespace that a runtime made for a pod.
struct Sandbox(String);

impl Sandbox {
    fn new(agent: &Agent, name: &str) -> Self {
        let netns = format!("hdl-{}-{name}", agent.instance);
        ip(&format!("netns add {netns}"));
        Sandbox(netns)
    }

    /// Calls the plugin; `Err` with the error document if it fails.
    fn call(&self, agent: &Agent, command: &str, config: Value) -> Result<Value, Value> {
        self.call_with(agent, command, &format!("/run/netns/{}", self.0), config)
    }

    /// The same with another CNI_NETNS.
    fn call_with(&self, agent: &Agent, command: &str, netns: &str, config: Value) -> Result<Value, Value> {
        let mut all = json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle"});
        all["instance"] = json!(agent.instance.to_string());
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_heddle"))
            // Without arguments, as a runtime does it.
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.0)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "K8S_POD_NAMESPACE=test;K8S_POD_NAME=pod")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        plugin.stdin.take().unwrap().write_all(all.to_string().as_bytes()).unwrap();
        let output = plugin.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(answer) } else { Err(answer) }
    }

    fn inside(&self, command: &str) -> String {
        ip(&format!("netns exec {} {command}", self.0))
    }

    /// Connects from here to an address of another.
    fn reaches(&self, other: &Sandbox, address: IpAddr) {
        let listener = other.within(|| TcpListener::bind((address, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        self.within(|| TcpStream::connect_timeout(&to, CONNECT_MAX).unwrap());
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::scope(|scope| {
            let body = || {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(body).join().unwrap()
        })
    }

    fn links(&self) -> usize {
        ip(&format!("-n {} -o link", self.0)).lines().count()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

pub(crate) fn an_attachment_lives_and_ends() {
    let agent = Agent::start("lives");
    let (a, b) = (Sandbox::new(&agent, "a"), Sandbox::new(&agent, "b"));
    let result = a.call(&agent, "ADD", json!({})).unwrap();
    b.call(&agent, "ADD", json!({"cniVersion": "0.4.0"})).unwrap();
    assert_eq!(result["interfaces"][0]["name"], host_ifname(1));
    assert_eq!(result["ips"][1]["address"], "fd00:10:244::1/128");
    for (_, _, index) in agent.state.lock().unwrap().attached.values() {
        assert_ne!(*index, 0, "the agent knows the device");
    }
    // At once and in both families: nothing is tentative, nobody has to be discovered.
    let (v4, v6) = addresses(2);
    a.reaches(&b, v4.into());
    a.reaches(&b, v6.into());
    a.reaches(&a, Ipv4Addr::LOCALHOST.into());
    let link = ip(&format!("-n {} link show eth0", a.0));
    assert!(link.contains("mtu 1400") && link.contains("UP"), "{link}");
    assert_eq!(a.inside("cat /proc/sys/net/ipv4/ip_local_reserved_ports").trim(), "60000-65534");
    assert!(ip(&format!("-n {} neigh", a.0)).contains("169.254.1.1 dev eth0"), "a permanent neighbour");
    assert!(ip(&format!("-n {} neigh", a.0)).lines().filter(|l| l.contains("PERMANENT")).count() == 2);

    let again = a.call(&agent, "ADD", json!({})).unwrap_err();
    assert_eq!(again["code"], 100, "{again}");
    a.reaches(&b, v4.into());

    a.call(&agent, "CHECK", json!({"prevResult": result})).unwrap();
    for _ in 0..2 {
        a.call(&agent, "DEL", json!({"prevResult": result})).unwrap();
    }
    assert_eq!(a.links(), 1, "just lo");
    assert!(!ip("-o link").contains(&host_ifname(1)));
    assert!(!ip("route").contains("10.244.0.1 "));
    // Garbage: the runtime forgot b.
    let valid = json!({"cni.dev/valid-attachments": []});
    a.call(&agent, "GC", valid).unwrap();
    assert!(agent.state.lock().unwrap().attached.is_empty());
    assert!(!ip("-o link").contains(&host_ifname(2)));
    a.call(&agent, "STATUS", json!({})).unwrap();
}

pub(crate) fn a_deletion_needs_no_namespace() {
    let mut agent = Agent::start("nons");
    let other = Sandbox::new(&agent, "other");
    other.call(&agent, "ADD", json!({})).unwrap();
    let others = format!("/run/netns/{}", other.0);
    ip("link add eth0 type veth peer name eth1");
    for (number, netns) in (2u8..).zip(["", "/run/netns/none", "/dev/null", &others, "/proc/self/ns/net"]) {
        let pod = Sandbox::new(&agent, "pod");
        pod.call(&agent, "ADD", json!({})).unwrap();
        assert!(ip("-o link").contains(&host_ifname(number)));
        // The agent's part is tested with the agent: here the plugin is alone.
        agent.stop();
        pod.call_with(&agent, "DEL", netns, json!({})).unwrap();
        assert!(!ip("-o link").contains(&host_ifname(number)), "after DEL with {netns:?}");
        assert_eq!(pod.links(), 1, "just lo");
        assert_eq!(other.links(), 2, "another pod's device is not touched");
        assert!(ip("-o link").contains("eth0@"), "the node's own neither");
        agent.resume();
    }
    ip("link del eth0");
}

pub(crate) fn check_sees_what_is_gone() {
    let agent = Agent::start("check");
    let breaks: &[(&str, &str)] = &[
        ("-n NS addr del V4/32 dev eth0", "address"),
        ("-n NS addr del V6/128 dev eth0", "address"),
        ("-n NS route del default", "IPv4 default route"),
        ("-n NS -6 route del default", "IPv6 default route"),
        ("-n NS link set eth0 down", "down"),
        ("-n NS link del eth0", "gone"),
        ("route del V4/32 dev HOST", "no route"),
        ("link set HOST down", "down"),
    ];
    for (number, (command, part)) in (1u8..).zip(breaks) {
        let pod = Sandbox::new(&agent, "pod");
        let result = pod.call(&agent, "ADD", json!({})).unwrap();
        pod.call(&agent, "CHECK", json!({"prevResult": result})).unwrap();
        let (v4, v6) = addresses(number);
        let command = command.replace("NS", &pod.0).replace("V4", &v4.to_string());
        ip(&command.replace("V6", &v6.to_string()).replace("HOST", &host_ifname(number)));
        let error = pod.call(&agent, "CHECK", json!({"prevResult": result})).unwrap_err();
        assert_eq!(error["code"], 102, "{error}");
        assert!(error["details"].as_str().unwrap().contains(part), "{error} should say {part:?}");
        pod.call(&agent, "DEL", json!({})).unwrap();
    }
    let pod = Sandbox::new(&agent, "pod");
    let result = pod.call(&agent, "ADD", json!({})).unwrap();
    agent.state.lock().unwrap().attached.clear();
    let error = pod.call(&agent, "CHECK", json!({"prevResult": result})).unwrap_err();
    assert_eq!((&error["code"], &error["details"]), (&json!(102), &json!("unknown attachment")));
}

pub(crate) fn what_fails_leaves_nothing() {
    let mut agent = Agent::start("fails");
    let pod = Sandbox::new(&agent, "pod");
    agent.state.lock().unwrap().refuses = true;
    let error = pod.call(&agent, "ADD", json!({})).unwrap_err();
    assert_eq!((&error["code"], &error["details"]), (&json!(101), &json!("asked to refuse")));
    assert_eq!(pod.links(), 1, "just lo");
    assert!(!ip("-o link").contains("hdl0"));
    assert!(agent.state.lock().unwrap().attached.is_empty(), "released");
    agent.stop();
    let error = pod.call(&agent, "ADD", json!({})).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("cannot be reached"), "{error}");
    let error = pod.call(&agent, "STATUS", json!({})).unwrap_err();
    assert_eq!(error["code"], 50, "{error}");
}

pub(crate) fn deletions_wait_for_the_agent() {
    let mut agent = Agent::start("waits");
    let pod = Sandbox::new(&agent, "pod");
    pod.call(&agent, "ADD", json!({})).unwrap();
    agent.stop();
    for _ in 0..2 {
        pod.call(&agent, "DEL", json!({})).unwrap();
    }
    assert_eq!(pod.links(), 1, "the device is gone all the same");
    let (pending, unreadable) = mesh_agent::cni::pending_deletions(&agent.run_dir()).unwrap();
    assert_eq!((pending.len(), unreadable.len()), (1, 0));
    assert!(agent.state.lock().unwrap().attached.contains_key(&pending[0].attachment));
    // An ADD of the same attachment takes the note back.
    agent.resume();
    pod.call(&agent, "ADD", json!({})).unwrap();
    assert!(mesh_agent::cni::pending_deletions(&agent.run_dir()).unwrap().0.is_empty());
    // A namespace that is gone took the device along.
    let name = pod.0.clone();
    ip(&format!("netns del {name}"));
    pod.call(&agent, "DEL", json!({})).unwrap();
    assert!(agent.state.lock().unwrap().attached.is_empty());
}
