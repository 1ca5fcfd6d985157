//! Probes: real connections from the node to the pod's address.

use serde_json::json;

use crate::world::{on_node, pod, shell, until};

pub(crate) fn readiness_comes_and_goes() {
    on_node("ready", |mut world| async {
        let marker = world.path("well");
        let probe = json!({
            "httpGet": {"path": "/healthz", "port": "http", "httpHeaders": [{"name": "X-Probe", "value": "1"}]},
            "periodSeconds": 1, "failureThreshold": 1,
        });
        let container = json!({
            "command": [world.program(), "serve", "8080", marker],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": probe,
        });
        world.launcher.apply([pod("p", container, json!({}))]);
        let ill =
            world.until("p", "probed", |s| s.containers.iter().any(|c| c.message.contains("500"))).await;
        assert!(!ill.ready);
        assert_eq!(world.agent.ready("p"), Some(false));
        std::fs::write(&marker, "").unwrap();
        let well = world.until("p", "ready", |s| s.ready).await;
        until("the agent knows", || (world.agent.ready("p") == Some(true)).then_some(())).await;
        std::fs::remove_file(&marker).unwrap();
        let ill = world.until("p", "not ready", |s| !s.ready).await;
        until("the agent knows", || (world.agent.ready("p") == Some(false)).then_some(())).await;
        assert_eq!(ill.containers[0].pid, well.containers[0].pid, "readiness ends nothing");
        // From the node's address, as a kubelet's.
        assert!(world.log("p", "c").contains("GET /healthz"), "{}", world.log("p", "c"));
        assert!(world.log("p", "c").contains("10.99.0.254:"), "{}", world.log("p", "c"));
        world
    });
}

pub(crate) fn liveness_restarts() {
    on_node("live", |mut world| async {
        let marker = world.path("well");
        std::fs::write(&marker, "").unwrap();
        let probe = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
        let http = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2});
        let container = json!({
            "command": [world.program(), "serve", "8080", marker],
            "readinessProbe": probe,
            "livenessProbe": http,
        });
        // Nothing listens: never ready, but nothing asks whether it lives either.
        world.launcher.apply([
            pod("p", container, json!({})),
            pod("silent", json!({"command": ["sleep", "1000"], "readinessProbe": probe}), json!({})),
        ]);
        let before = world.until("p", "ready", |s| s.ready).await;
        std::fs::remove_file(&marker).unwrap();
        let after = world.until("p", "restarted", |s| s.containers[0].restarts >= 1).await;
        assert_eq!(after.addresses, before.addresses, "a container's restart leaves the pod alone");
        std::fs::write(&marker, "").unwrap();
        world.until("p", "ready again", |s| s.ready).await;
        let silent = world.status("silent").unwrap();
        assert!(!silent.ready && silent.containers[0].restarts == 0, "{silent:?}");
        assert!(silent.containers[0].message.contains("connecting to port 8080"), "{silent:?}");
        world
    });
}

pub(crate) fn exec_probes_run_inside() {
    on_node("exec", |mut world| async {
        let words = ["sh", "-c", "test \"$(hostname)\" = p && ip -o link show eth0 && test -e $MARK"];
        let marker = world.path("well");
        std::fs::write(&marker, "").unwrap();
        let probe = json!({"exec": {"command": words}, "periodSeconds": 1, "timeoutSeconds": 20});
        let hanging =
            json!({"exec": {"command": ["sleep", "1000"]}, "periodSeconds": 1, "failureThreshold": 1});
        let container = json!({
            "command": ["sleep", "1000"],
            "env": [{"name": "MARK", "value": marker}],
            "startupProbe": probe,
            "readinessProbe": probe,
        });
        world.launcher.apply([
            pod("p", container, json!({})),
            pod("hangs", json!({"command": ["sleep", "1000"], "readinessProbe": hanging}), json!({})),
        ]);
        world.until("p", "ready", |s| s.ready).await;
        let hangs = world.until("hangs", "probed", |s| s.containers[0].message.contains("within 1 s")).await;
        assert!(!hangs.ready);
        world.launcher.apply([shell("other", "sleep 1000", json!({}))]);
        world.gone("p").await;
        world.gone("hangs").await;
        world
    });
}
