//! Pods of the launcher with the real plugin and the real DNS server.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use launcher::{Launcher, Options};
use mesh_agent::layout::cgroup2_mount;
use serde_json::{Value, json};

use crate::agent::{Agent, addresses};

/// Longest wait for anything. Debug builds on a busy machine are slow.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn pods_find_each_other_by_name() {
    let Some(cgroup2) = cgroup2_mount() else {
        eprintln!("SKIPPED: no cgroup v2 is mounted.");
        return;
    };
    let mut agent = Agent::start("names");
    let (dns4, dns6) = addresses(1);
    agent.state.lock().unwrap().dns = json!({"services": [{
        "namespace": "test", "name": "web",
        "clusterIps": ["10.96.0.20", "fd00:10:96::20"],
        "ports": [{"name": "http", "port": 80, "proto": 6}],
    }]})
    .to_string();
    let instance = agent.instance.to_string();
    let heddle = Path::new(env!("CARGO_BIN_EXE_heddle"));
    let mut options = Options::new(heddle.to_owned(), &instance, agent.instance.cgroup(&cgroup2));
    // Nothing translates service addresses here: pods ask the DNS pod itself.
    options.dns_servers = vec![dns4.into(), dns6.into()];
    let cgroup = options.cgroup.clone();
    let dns = launcher::dns::manifests(heddle, &instance, &[], "cluster.local", &[]).remove(2);
    let client = json!({
        "metadata": {"name": "client", "namespace": "test"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "command": ["sleep", "1000"]}]},
    });
    let pod = |value: &Value| serde_json::from_value::<Pod>(value.clone()).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut launcher = Launcher::start(options).await.unwrap();
        launcher.apply([pod(&dns)]);
        until_ready(&launcher, 1).await;
        launcher.apply([pod(&dns), pod(&client)]);
        until_ready(&launcher, 2).await;
        let resolve = |name: &str| {
            let mut command = Command::new(heddle);
            command.args(["--instance", &instance, "exec", "test/client", "--", "getent", "ahosts", name]);
            let output = command.output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        for name in ["web", "web.test", "web.test.svc", "web.test.svc.cluster.local"] {
            let found = resolve(name);
            assert!(found.contains("10.96.0.20") && found.contains("fd00:10:96::20"), "{name}: {found}");
        }
        assert_eq!(resolve("nobody.test"), "");
        // The DNS server goes on without the agent.
        agent.stop();
        assert!(resolve("web").contains("10.96.0.20"));
        agent.resume();
        assert!(resolve("web").contains("10.96.0.20"));
        let hidden = Command::new(heddle)
            .args(["--instance", &instance, "exec", "test/client", "--", "ls", "/run/heddle"])
            .output()
            .unwrap();
        assert!(hidden.status.success() && hidden.stdout.is_empty(), "pods do not see the node's sockets");
        launcher.shutdown().await;
        std::fs::remove_dir(&cgroup).unwrap();
    });
    assert!(agent.state.lock().unwrap().attached.is_empty(), "every pod was released");
}

async fn until_ready(launcher: &Launcher, count: usize) {
    let end = Instant::now() + WAIT_MAX;
    while launcher.status().iter().filter(|pod| pod.ready).count() != count {
        assert!(Instant::now() < end, "{:#?}", launcher.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
