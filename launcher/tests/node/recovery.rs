//! What happens when agent, plugin or launcher fail.

use std::path::Path;
use std::process::{Command, ExitCode};

use launcher::{Launcher, Phase};
use serde_json::json;

use crate::agent::Agent;
use crate::world::{self, on_node, shell, until};

pub(crate) fn a_new_agent_hears_everything() {
    on_node("agent", |mut world| async {
        world.launcher.apply([shell("a", "sleep 1000", json!({}))]);
        until("the agent knows", || (world.agent.ready("a") == Some(true)).then_some(())).await;
        world.agent.stop();
        // While there is none.
        world.launcher.apply([shell("a", "sleep 1000", json!({})), shell("b", "sleep 1000", json!({}))]);
        world.until("b", "ready", |s| s.ready).await;
        world.agent = Agent::start(&world.options.run_dir.join("agent.sock"));
        for pod in ["a", "b"] {
            until("the new agent knows", || (world.agent.ready(pod) == Some(true)).then_some(())).await;
        }
        world
    });
}

pub(crate) fn a_plugin_that_fails_is_tried_again() {
    on_node("plugin", |mut world| async {
        std::fs::write(world.path("fail"), "").unwrap();
        world.launcher.apply([shell("a", "sleep 1000", json!({})), shell("b", "sleep 1000", json!({}))]);
        let waits = world.until("a", "waits", |s| s.message.contains("asked to fail")).await;
        assert_eq!((waits.phase, waits.ready), (Phase::Pending, false));
        // One that never came up ends as well.
        world.launcher.apply([shell("a", "sleep 1000", json!({}))]);
        world.gone("b").await;
        std::fs::remove_file(world.path("fail")).unwrap();
        world.until("a", "ready", |s| s.ready).await;
        world
    });
}

pub(crate) fn a_crash_leaves_nothing_for_long() {
    on_node("crash", |mut world| async {
        let instance = world.options.instance.clone();
        world.launcher.shutdown().await;
        let status = Command::new(world.program())
            .arg("--instance")
            .arg(&instance)
            .arg("crash")
            .arg(&world.folder)
            .status()
            .unwrap();
        assert!(!status.success());
        let pid = std::fs::read_to_string(world.path("pid")).unwrap();
        let pid = pid.trim().parse().unwrap();
        assert!(world::alive(pid), "the pod survives its launcher");
        let netns = format!("/run/netns/hdl-{instance}-test_orphan");
        assert!(Path::new(&netns).exists());
        let before = world.plugin_commands("DEL");
        world.launcher = Launcher::start(world.options.clone()).await.unwrap();
        assert!(!world::alive(pid) && !Path::new(&netns).exists());
        assert_eq!(world.plugin_commands("DEL"), before + 1);
        world
    });
}

/// Role `crash`.
pub(crate) fn crash(folder: &Path) -> ExitCode {
    let instance = std::env::args().nth(2).unwrap_or_default();
    let options = world::options(folder, &instance);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut launcher = Launcher::start(options).await.unwrap();
        let pid = folder.join("pid").display().to_string();
        launcher.apply([shell(
            "orphan",
            &format!("echo $$$$ >{pid}.new && mv {pid}.new {pid}; exec sleep 1000"),
            json!({}),
        )]);
        until("the pod runs", || folder.join("pid").exists().then_some(())).await;
    });
    std::process::abort()
}

pub(crate) fn an_invalid_pod_keeps_its_last_version() {
    on_node("invalid", |mut world| async {
        let good = || shell("p", "sleep 1000", json!({}));
        let bad = |name: &str| shell(name, "sleep 1000", json!({"volumes": [{"name": "v"}]}));
        world.launcher.apply([good()]);
        let before = world.until("p", "ready", |s| s.ready).await;
        let refusals = world.launcher.apply([bad("p"), bad("q")]);
        assert_eq!(refusals.len(), 2);
        assert_eq!(refusals[0].1[0].path, "spec.volumes");
        let after = world.status("p").unwrap();
        assert_eq!(after.containers[0].pid, before.containers[0].pid);
        assert!(after.ready && after.message.contains("spec.volumes"), "{after:?}");
        let q = world.status("q").unwrap();
        assert_eq!((q.phase, q.ready), (Phase::Refused, false));
        // Refused pods of other nodes are nobody's business here.
        let mut elsewhere = bad("r");
        elsewhere.spec.as_mut().unwrap().node_name = Some("other".to_owned());
        assert!(world.launcher.apply([good(), elsewhere]).is_empty());
        assert_eq!(world.status("q"), None);
        world
    });
}
