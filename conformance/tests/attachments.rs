//! What a container runtime may do with its pods' attachments, on a node that runs no pods itself: nothing stays
//! behind, and nobody's network is taken away.

use std::io::Write;
use std::process::Stdio;

use conformance::netns::Netns;
use conformance::{Node, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: test}
spec: {containers: [{name: main, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: test}
spec: {containers: [{name: main, image: none}]}
";

/// One call of the plugin; `Err` with the error document.
fn cni(node: &Node, command: &str, pod: &str, netns: &str, config: Value) -> Result<Value, Value> {
    let mut all =
        json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle", "instance": node.instance()});
    all.as_object_mut().expect("an object").extend(config.as_object().expect("an object").clone());
    let mut plugin = node.netns().command(host::program("heddle"));
    plugin.arg("cni").env("CNI_COMMAND", command).env("CNI_CONTAINERID", pod).env("CNI_IFNAME", "eth0");
    plugin.env("CNI_NETNS", netns).env("CNI_ARGS", format!("K8S_POD_NAMESPACE=test;K8S_POD_NAME={pod}"));
    let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the plugin runs");
    child.stdin.take().expect("stdin").write_all(all.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() { Ok(answer) } else { Err(answer) }
}

/// The node's ends of pods' links, and routes to them.
fn leftovers(node: &Node) -> String {
    let ip = |words: &[&str]| {
        let output = node.netns().command("ip").args(words).output().expect("ip runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = ip(&["-o", "link"]) + &ip(&["route"]) + &ip(&["-6", "route"]);
    // Namespaces of the tests are named hdlt-..., devices hdl and eight digits.
    let is_device = |word: &str| word.len() == "hdl00000000".len() && word.starts_with("hdl");
    let names_one = |line: &&str| line.split([' ', ':', '@']).any(is_device);
    all.lines().filter(names_one).map(|line| format!("{line}\n")).collect()
}

fn path(netns: &Netns) -> String {
    netns.path().display().to_string()
}

#[test]
fn nothing_of_an_attachment_stays_behind() {
    if !host::privileged("nothing_of_an_attachment_stays_behind") {
        return;
    }
    let mut node = Node::builder("cni").file("pods.yaml", PODS).without_pods().start();
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    for netns in ["", &path(&b), "/proc/self/ns/net"] {
        cni(&node, "ADD", "a", &path(&a), json!({})).expect("attached");
        assert!(leftovers(&node).contains("hdl"));
        cni(&node, "DEL", "a", netns, json!({})).expect("detached");
        assert_eq!(leftovers(&node), "", "after DEL with CNI_NETNS={netns:?}");
    }
    // A second ADD of what is alive: refused, and the first one is not harmed.
    cni(&node, "ADD", "a", &path(&a), json!({})).expect("attached");
    let before = leftovers(&node);
    let error = cni(&node, "ADD", "a", &path(&b), json!({})).expect_err("attached already");
    assert!(error["details"].as_str().unwrap_or_default().contains("attached already"), "{error}");
    assert_eq!(leftovers(&node), before);
    // A device of the instance that nobody knows of goes with GC; another instance's stays.
    for (name, alias) in [("hdl00000001", node.instance()), ("hdl00000002", "another")] {
        node.netns().ip(&format!("link add {name} type veth peer name x{name}"));
        let words = ["link", "set", name, "alias", &format!("heddle {alias} lost/eth0")];
        assert!(node.netns().command("ip").args(words).status().expect("ip runs").success());
    }
    cni(&node, "GC", "a", "", json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}))
        .expect("collected");
    assert!(!leftovers(&node).contains("hdl00000001"), "{}", leftovers(&node));
    assert!(leftovers(&node).contains("hdl00000002"), "{}", leftovers(&node));
    node.netns().ip("link del hdl00000002");
    // The end of the node, by a closed terminal: the link of a pod that lives on goes too.
    kill(Pid::from_raw(node.supervisor_pid().cast_signed()), Signal::SIGHUP).expect("it runs");
    assert!(node.ended(), "{}", node.log());
    assert_eq!(leftovers(&node), "");
    let instance: &str = node.instance();
    assert!(!std::path::Path::new("/run/heddle").join(instance).exists());
    assert!(!std::path::Path::new("/sys/fs/bpf/heddle").join(instance).exists());
}
