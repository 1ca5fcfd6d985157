//! The launcher on a node of its own: real namespaces, cgroups and processes; a small CNI plugin and a small
//! agent play the mesh. This program is also the `heddle` binary of these tests ([`roles`]).
//!
//! Needs root and the `ip` command. Without them it says so and tests nothing.

mod agent;
mod lifecycle;
mod probes;
mod recovery;
mod roles;
mod world;

use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_pod_is_what_its_manifest_says", lifecycle::a_pod_is_what_its_manifest_says),
    ("init_containers_come_first", lifecycle::init_containers_come_first),
    ("changes_restart_just_what_changed", lifecycle::changes_restart_just_what_changed),
    ("an_end_is_an_end", lifecycle::an_end_is_an_end),
    ("restart_policies", lifecycle::restart_policies),
    ("logs_are_bounded", lifecycle::logs_are_bounded),
    ("readiness_comes_and_goes", probes::readiness_comes_and_goes),
    ("liveness_restarts", probes::liveness_restarts),
    ("exec_probes_run_inside", probes::exec_probes_run_inside),
    ("a_new_agent_hears_everything", recovery::a_new_agent_hears_everything),
    ("a_plugin_that_fails_is_tried_again", recovery::a_plugin_that_fails_is_tried_again),
    ("a_crash_leaves_nothing_for_long", recovery::a_crash_leaves_nothing_for_long),
    ("an_invalid_pod_keeps_its_last_version", recovery::an_invalid_pod_keeps_its_last_version),
];

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    let root = nix::unistd::geteuid().is_root();
    if !root || Command::new("ip").arg("-V").output().is_err() || world::cgroup2().is_none() {
        eprintln!(
            "SKIPPED: the launcher's tests need root, the ip command and cgroup v2. NOTHING WAS TESTED."
        );
        return ExitCode::SUCCESS;
    }
    // While there is one thread: everything that follows lives in this node.
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    world::ip("link set lo up");
    world::ip("addr add 10.99.0.254/32 dev lo");
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
