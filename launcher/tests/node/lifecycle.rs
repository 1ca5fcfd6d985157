//! Start, change and end of pods.

use launcher::Phase;
use serde_json::json;

use crate::world::{self, on_node, pod, shell, until};

const INSIDE: &str = r#"
echo "ip=$IP url=$URL again=$AGAIN app=$APP name=$(hostname) dir=$(pwd) args=$0,$1"
echo "resolv=$(tr '\n' '|' </etc/resolv.conf)"
echo "hosts=$(grep -c "$IP.web-1$" /etc/hosts)"
echo "links=$(ip -o link | grep -c .)"
echo "cgroup=$(sed -n 's/^0:://p' /proc/self/cgroup)"
echo "bounding=$(sed -n 's/^CapBnd:[^0-9a-f]*//p' /proc/self/status)"
echo "pins=$(ls -A /sys/fs/bpf | wc -l) run=$(ls -A /run/heddle 2>/dev/null | wc -l)"
exec sleep 1000
"#;

pub(crate) fn a_pod_is_what_its_manifest_says() {
    on_node("says", |mut world| async {
        // What pods must not see, whether this machine has a mesh or not.
        std::fs::create_dir_all(format!("/run/heddle/{}", world.options.instance)).unwrap();
        let container = json!({
            "command": ["sh", "-c", INSIDE, "zero"],
            "args": ["$(APP)"],
            "workingDir": "/usr",
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "URL", "value": "http://$(IP)/"},
                {"name": "AGAIN", "value": "$$(IP)"},
            ],
        });
        let refusals = world.launcher.apply([pod("web-1", container, json!({}))]);
        assert!(refusals.is_empty(), "{refusals:?}");
        let status = world.until("web-1", "ready", |status| status.ready).await;
        let log = until("the whole log", || {
            let log = world.log("web-1", "c");
            log.contains("run=").then_some(log)
        })
        .await;
        let instance = &world.options.instance;
        std::fs::remove_dir(format!("/run/heddle/{instance}")).unwrap();
        let ip = status.addresses[0].to_string();
        for line in [
            format!("ip={ip} url=http://{ip}/ again=$(IP) app=web-1 name=web-1 dir=/usr args=zero,web-1"),
            "resolv=nameserver 10.96.0.10|search test.svc.cluster.local svc.cluster.local cluster.local|\
             options ndots:5|"
                .to_owned(),
            "hosts=1".to_owned(),
            "links=2".to_owned(),
            format!("heddle/{instance}/pods/test_web-1/c"),
            // The set of container runtimes.
            "bounding=00000000a80425fb".to_owned(),
            "pins=0 run=0".to_owned(),
        ] {
            assert!(log.contains(&line), "{line:?} is not in\n{log}");
        }
        assert_eq!(world.agent.ready("web-1"), Some(true));
        world
    });
}

pub(crate) fn init_containers_come_first() {
    on_node("init", |mut world| async {
        let marker = world.path("marker").display().to_string();
        let init = |name: &str, line: String| json!({"name": name, "command": ["sh", "-c", line]});
        let spec = json!({"initContainers": [
            init("one", format!("test ! -e {marker} && echo 1 >{marker}; sleep 0.2")),
            // Fails at first: it is tried again, and `one` is not.
            init("two", format!("test -e {marker}2 || {{ touch {marker}2; exit 1; }}; echo 2 >>{marker}")),
        ]});
        world.launcher.apply([shell("p", &format!("cat {marker}; sleep 1000"), spec)]);
        world.until("p", "ready", |status| status.ready).await;
        until("the log", || world.log("p", "c").contains("1\n2\n").then_some(())).await;
        world
    });
}

pub(crate) fn changes_restart_just_what_changed() {
    on_node("change", |mut world| async {
        let line = "sleep 1000";
        world.launcher.apply([shell("a", line, json!({})), shell("b", line, json!({}))]);
        let a = world.until("a", "ready", |status| status.ready).await;
        let b = world.until("b", "ready", |status| status.ready).await;
        let mut relabelled = shell("a", line, json!({}));
        relabelled.metadata.labels = None;
        world.launcher.apply([relabelled, shell("b", "sleep 2000", json!({}))]);
        let pid = b.containers[0].pid;
        let b2 = world.until("b", "new", |s| s.ready && s.containers[0].pid != pid).await;
        assert_ne!(b2.addresses, b.addresses, "a new pod has a network of its own");
        assert_eq!(world.status("a"), Some(a.clone()), "a was not touched");
        world.launcher.apply([shell("a", line, json!({}))]);
        world.gone("b").await;
        assert_eq!((world.plugin_commands("ADD"), world.plugin_commands("DEL")), (3, 2));
        assert_eq!(world.plugin_commands("GC"), 1, "leftovers are released once, before the first pod");
        // Removed and wanted again before it is gone.
        world.launcher.apply([]);
        world.launcher.apply([shell("a", line, json!({}))]);
        let pid = a.containers[0].pid;
        world.until("a", "new", |s| s.ready && s.containers[0].pid != pid).await;
        world
    });
}

pub(crate) fn an_end_is_an_end() {
    on_node("end", |mut world| async {
        let folder = world.path("").display().to_string();
        let polite = format!(
            "trap 'echo bye >{folder}/bye; exit' TERM; echo $$$$ >{folder}/polite; while :; do sleep 0.05; done"
        );
        // Deaf itself, and with a child in a session of its own. (`$$$$` is `$$` in a Pod.)
        let deaf = format!(
            "setsid sh -c 'echo $$$$ >{folder}/child; exec sleep 1000' & trap '' TERM; \
                            echo $$$$ >{folder}/deaf; while :; do sleep 0.05; done"
        );
        let short = json!({"terminationGracePeriodSeconds": 1});
        world.launcher.apply([shell("polite", &polite, json!({})), shell("deaf", &deaf, short)]);
        world.until("polite", "ready", |status| status.ready).await;
        world.until("deaf", "ready", |status| status.ready).await;
        let pid = |name: &str| {
            let text = std::fs::read_to_string(world.path(name)).ok()?;
            text.trim().parse::<u32>().ok()
        };
        let pids = until("both ran", || Some([pid("child")?, pid("deaf")?, pid("polite")?])).await;
        world.launcher.apply([]);
        world.gone("deaf").await;
        world.gone("polite").await;
        assert_eq!(std::fs::read_to_string(world.path("bye")).unwrap(), "bye\n");
        for pid in pids {
            assert!(!world::alive(pid), "process {pid} is left");
        }
        world
    });
}

pub(crate) fn restart_policies() {
    on_node("restart", |mut world| async {
        let policy = |policy: &str| json!({"restartPolicy": policy});
        let marker = world.path("once").display().to_string();
        world.launcher.apply([
            shell("never-well", "exit 0", policy("Never")),
            shell("never-badly", "exit 3", policy("Never")),
            shell(
                "on-failure",
                &format!("test -e {marker} || {{ touch {marker}; exit 1; }}"),
                policy("OnFailure"),
            ),
            shell("always", "exit 0", policy("Always")),
            pod("missing", json!({"command": ["no-such-program"]}), policy("Never")),
        ]);
        world.until("never-well", "over", |s| s.phase == Phase::Succeeded).await;
        let badly = world.until("never-badly", "over", |s| s.phase == Phase::Failed).await;
        assert_eq!(badly.containers[0].message, "ended with exit status: 3");
        let again = world.until("on-failure", "over", |s| s.phase == Phase::Succeeded).await;
        assert_eq!(again.containers[0].restarts, 1);
        world.until("always", "restarts", |s| s.containers[0].restarts >= 3).await;
        let missing = world.until("missing", "over", |s| s.phase == Phase::Failed).await;
        assert_eq!(missing.containers[0].message, "ended with exit status: 127");
        let log = world.log("missing", "c");
        assert!(log.contains("cannot execute no-such-program"), "{log}");
        world
    });
}

pub(crate) fn logs_are_bounded() {
    on_node("logs", |mut world| async {
        world.launcher.shutdown().await;
        let mut options = world.options.clone();
        options.log_max = 10_000;
        world.launcher = launcher::Launcher::start(options).await.unwrap();
        let line = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 1000";
        world.launcher.apply([shell("p", line, json!({}))]);
        until("the last line", || world.log("p", "c").contains("line 2999\n").then_some(())).await;
        let size =
            |name: &str| std::fs::metadata(world.options.run_dir.join("logs").join(name)).unwrap().len();
        assert!(size("test_p_c.log") <= 10_000 && size("test_p_c.log.1") <= 10_000);
        world
    });
}
