//! Agents come and go; what is pinned stays, and traffic does not notice.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Direction, DropReason, verdict_code};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType};
use ebpf_redirect::{Attachment, Datapath, OpenError, remove_pins};

use super::net::*;

const PORT: u16 = 8080;

fn allow() -> Policy {
    policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW)
}

fn link(node: &Node, name: &str) -> (u32, u32) {
    let link = FdLink::from(PinnedLink::from_pin(node.pin_root.join("links").join(name)).unwrap());
    let info = link.info().unwrap();
    (info.id(), info.program_id())
}

#[test]
fn traffic_survives_restarts() {
    let Some(node) = Node::new() else { return };
    node.serve(PORT);
    let datapath = node.start(&allow());
    let mut old: Vec<TcpStream> = POD_B.map(|to| node.connect(to, PORT, WAIT).unwrap()).into();
    let [before_in, before_lookup] = [format!("pod_{}_in", ifindex("va")), "netns".into()];
    let (first, first_lookup) = (link(&node, &before_in), link(&node, &before_lookup));
    drop(datapath);
    for stream in &mut old {
        assert!(ask(stream).is_some(), "without an agent");
    }
    assert!(node.connect(POD_B[0], PORT, WAIT).is_ok(), "a new one without an agent");

    // Restarts while requests run, on old connections and new ones.
    let (stop, answers) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for stream in &mut old {
                    ask(stream).expect("an answer on an old connection");
                }
                for to in POD_B {
                    let mut stream = node.connect(to, PORT, WAIT).expect("a new connection");
                    ask(&mut stream).expect("an answer on a new connection");
                }
                answers.fetch_add(4, Ordering::Relaxed);
            }
        });
        for revision in 2..7 {
            let mut datapath = node.open();
            datapath.configure(&config(revision)).unwrap();
            let seen = answers.load(Ordering::Relaxed);
            while answers.load(Ordering::Relaxed) < seen + 8 && !client.is_finished() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap();
    });
    let (second, second_lookup) = (link(&node, &before_in), link(&node, &before_lookup));
    assert_eq!(first.0, second.0, "the same link");
    assert_ne!(first.1, second.1, "with another program");
    assert_eq!(first_lookup.0, second_lookup.0);
    assert_ne!(first_lookup.1, second_lookup.1);
    let datapath = node.open();
    assert_eq!(datapath.configuration().unwrap().revision, 6, "adopted, not made anew");
    assert_eq!(datapath.endpoints().unwrap().len(), 2);
}

#[test]
fn cgroup_links_are_replaced_in_place() {
    let Some(node) = Node::new() else { return };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let Some(mount) = mounts.lines().find(|line| line.contains(" cgroup2 ")) else {
        eprintln!("SKIPPED: needs cgroup v2");
        return;
    };
    let cgroup = std::path::Path::new(mount.split(' ').nth(1).unwrap())
        .join(node.pin_root.parent().unwrap().file_name().unwrap());
    std::fs::create_dir(&cgroup).unwrap();
    let mut datapath = node.open();
    datapath.attach_cgroup(&cgroup).unwrap();
    let first = link(&node, "cgroup_connect4");
    drop(datapath);
    let mut datapath = node.open();
    let second = link(&node, "cgroup_connect4");
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
    datapath.attach_cgroup(&cgroup).unwrap();
    assert_eq!(link(&node, "cgroup_connect4"), second, "attaching again changes nothing");

    // A cgroup that was removed and made again is another one.
    std::fs::remove_dir(&cgroup).unwrap();
    std::fs::create_dir(&cgroup).unwrap();
    datapath.attach_cgroup(&cgroup).unwrap();
    assert_ne!(link(&node, "cgroup_connect4").0, second.0);
    let refused = datapath.attach_cgroup(std::path::Path::new("/tmp")).unwrap_err();
    assert!(refused.to_string().contains("/tmp is not a cgroup v2 folder"), "{refused}");
    drop(datapath);
    remove_pins(&node.pin_root).unwrap();
    std::fs::remove_dir(&cgroup).unwrap();
}

#[test]
fn one_agent_at_a_time() {
    let Some(node) = Node::new() else { return };
    let first = node.open();
    let second = Datapath::open(&node.options());
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    drop(first);
    node.open();
}

#[test]
fn only_on_a_bpf_file_system() {
    let Some(node) = Node::new() else { return };
    let mut options = node.options();
    options.pin_root = "/tmp/hdl-none/v1".into();
    let refused = Datapath::open(&options).unwrap_err().to_string();
    assert!(refused.contains("mount -t bpf bpf /sys/fs/bpf"), "{refused}");
}

#[test]
fn detaching_leaves_nothing() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.start(&allow());
    datapath.attach_device(ifindex("vb")).unwrap();
    assert_eq!(datapath.devices().unwrap(), [ifindex("vb")]);
    let programs = |device, side| SchedClassifier::query_tcx(device, side).unwrap().1.len();
    assert_eq!(programs("vb", TcAttachType::Ingress), 2);
    datapath.detach_device(ifindex("vb")).unwrap();
    assert_eq!(programs("vb", TcAttachType::Ingress), 1);
    assert_eq!(programs("vb", TcAttachType::Egress), 1);
    datapath.detach_endpoint(ifindex("vb")).unwrap();
    datapath.detach_endpoint(ifindex("vb")).unwrap();
    assert_eq!(programs("vb", TcAttachType::Egress), 0);
    assert_eq!(datapath.endpoints().unwrap().into_keys().collect::<Vec<_>>(), [ifindex("va")]);
    datapath.detach_all().unwrap();
    assert_eq!(programs("va", TcAttachType::Ingress), 0);
    assert!(!node.pin_root.exists());
}

#[test]
fn pins_of_vanished_pods_go() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.start(&allow());
    node.ip("node", "link del vb");
    let report = datapath.collect_garbage().unwrap();
    assert_eq!((report.stale_links, report.complete), (2, true), "{report:?}");
    assert_eq!(datapath.endpoints().unwrap().into_keys().collect::<Vec<_>>(), [ifindex("va")]);
    node.ip("node", "link del va");
    drop(datapath);
    let datapath = node.open();
    assert_eq!(datapath.endpoints().unwrap().len(), 0, "found when opening, too");
}

#[test]
fn other_versions_are_retired() {
    let Some(node) = Node::new() else { return };
    let datapath = node.start(&allow());
    let mut other = node.options();
    other.pin_root.set_file_name("v9999");
    let newer = Datapath::open(&other).unwrap();
    drop(datapath);
    newer.retire_other_versions().unwrap();
    assert!(!node.pin_root.exists());
    assert!(other.pin_root.exists());
    newer.detach_all().unwrap();
}

#[test]
fn works_with_clsact() {
    let Some(node) = Node::new() else { return };
    node.serve(PORT);
    let datapath = node.start_with(Attachment::Clsact, &allow());
    let mut stream = node.connect(POD_B[0], PORT, WAIT).unwrap();
    assert!(ask(&mut stream).is_some());
    assert!(datapath.counters().unwrap().new_direct >= 1, "the programs saw it");
    drop(datapath);
    assert!(ask(&mut stream).is_some(), "without an agent");
    let mut datapath = Datapath::open_with(&node.options(), Attachment::Clsact).unwrap();
    assert!(ask(&mut stream).is_some(), "with the next one");
    let nothing = Policy::new();
    datapath.set_policy(ENDPOINT_A, &nothing).unwrap();
    datapath.configure(&config(2)).unwrap();
    assert!(node.connect(POD_B[1], PORT, PATIENCE).is_err(), "enforced by the new programs");
    assert!(datapath.counters().unwrap().drops_for(DropReason::PolicyDenied) >= 1);
    let filters = || {
        let output =
            std::process::Command::new("tc").args(["filter", "show", "dev", "va", "ingress"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(filters().matches("direct-action").count(), 1, "{}", filters());
    datapath.detach_all().unwrap();
    assert_eq!(filters().matches("direct-action").count(), 0, "{}", filters());
}

#[test]
fn folders_have_the_permissions_they_need() {
    let Some(node) = Node::new() else { return };
    let _datapath = node.open();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (path, expected) in [
        ("", 0o750),
        ("maps", 0o750),
        ("links", 0o700),
        ("programs", 0o700),
        ("maps/LISTENERS", 0o660),
        ("maps/CONNECTIONS", 0o640),
        ("maps/POLICY", 0o600),
        ("programs/from_pod", 0o600),
    ] {
        assert_eq!(mode(&node.pin_root.join(path)), expected, "{path}");
    }
    for parent in node.pin_root.ancestors().skip(1).take(3) {
        assert_ne!(mode(parent) & 0o001, 0, "{} can be passed", parent.display());
    }
}
