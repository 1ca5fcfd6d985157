//! The CNI plugin, and pods that the launcher runs through it, on a node of their own: real devices and real
//! packets in both families. A small agent ([`agent`]) hands out addresses; no kernel programs are involved,
//! so that a failure here is the plugin's, the launcher's or the DNS server's.
//!
//! Needs root and the `ip` command. Without them it says so and tests nothing.

mod agent;
mod plugin;
mod workloads;

use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("an_attachment_lives_and_ends", plugin::an_attachment_lives_and_ends),
    ("a_deletion_needs_no_namespace", plugin::a_deletion_needs_no_namespace),
    ("check_sees_what_is_gone", plugin::check_sees_what_is_gone),
    ("what_fails_leaves_nothing", plugin::what_fails_leaves_nothing),
    ("deletions_wait_for_the_agent", plugin::deletions_wait_for_the_agent),
    ("pods_find_each_other_by_name", workloads::pods_find_each_other_by_name),
];

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
        eprintln!("SKIPPED: tests of the CNI plugin need root and the ip command. NOTHING WAS TESTED.");
        return ExitCode::SUCCESS;
    }
    // While there is one thread: everything that follows lives in this node.
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    ip("link set lo up");
    // Probes need an address to come from.
    ip("addr add 192.0.2.1/32 dev lo");
    ip("addr add 2001:db8::1/128 dev lo");
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{setting}"), "1").expect("forwarding");
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word)) {
            continue;
        }
        let began = Instant::now();
        test();
        println!("test {name} ... ok ({:.1} s)", began.elapsed().as_secs_f32());
    }
    ExitCode::SUCCESS
}

/// Runs `ip` and gives what it prints; panics with its words if it fails.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
