//! One node for one test: folders, a cgroup, an agent, a launcher; waiting for conditions.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use launcher::{Launcher, Options, PodStatus};
use serde_json::{Value, json};

use crate::agent::Agent;

/// Longest wait for anything. Debug builds on a busy machine are slow.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Runs `ip`; panics with its words if it fails.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {error}");
}

pub(crate) fn append(path: &Path, text: &str) {
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.expect("a file").write_all(text.as_bytes()).expect("write");
}

/// Where cgroup v2 is mounted.
pub(crate) fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// Whether a process runs; one that nobody has waited for yet does not.
pub(crate) fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Waits until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + WAIT_MAX;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {WAIT_MAX:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) options: Options,
    pub(crate) launcher: Launcher,
    pub(crate) agent: Agent,
}

/// Runs a test on a node and removes the node, also after a panic.
pub(crate) fn on_node<F: Future<Output = World>>(name: &str, test: impl FnOnce(World) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(folder.path(), &format!("lt{}-{name}", std::process::id()));
    std::os::unix::fs::symlink(folder.path(), plugin_folder(&options.instance)).expect("a link");
    let body = || {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let mut world = test(World::new(&folder, &options).await).await;
            world.launcher.shutdown().await;
        });
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    if outcome.is_err() {
        // A new launcher removes what the old one left.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(Launcher::start(options.clone())).ok();
    }
    std::fs::remove_file(plugin_folder(&options.instance)).expect("the link");
    let cgroup_left = options.cgroup.join("pods").exists();
    std::fs::remove_dir(&options.cgroup).ok();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(!cgroup_left, "cgroups are left");
    let prefix = format!("hdl-{}-", options.instance);
    let netns = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> =
        netns.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with(&prefix)).collect();
    assert!(left.is_empty(), "network namespaces are left: {left:?}");
}

/// Options of a node whose files are in a folder.
pub(crate) fn options(folder: &Path, instance: &str) -> Options {
    let heddle = std::env::current_exe().expect("this program");
    let cgroup = cgroup2().expect("cgroup v2").join("heddle").join(instance);
    let mut options = Options::new(heddle, instance, cgroup);
    options.run_dir = folder.join("run");
    options.node_name = "node".to_owned();
    options.node_addresses = vec!["10.99.0.254".parse().expect("an address")];
    options.dns_servers = vec!["10.96.0.10".parse().expect("an address")];
    options.backoff.initial = Duration::from_millis(100);
    options.backoff.max = Duration::from_millis(400);
    options
}

impl World {
    async fn new(folder: &tempfile::TempDir, options: &Options) -> Self {
        std::fs::create_dir_all(&options.run_dir).expect("a folder");
        let agent = Agent::start(&options.run_dir.join("agent.sock"));
        let launcher = Launcher::start(options.clone()).await.expect("a launcher");
        World { folder: folder.path().to_owned(), options: options.clone(), launcher, agent }
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// This program, to be used as a command.
    pub(crate) fn program(&self) -> String {
        self.options.heddle.display().to_string()
    }

    pub(crate) fn status(&self, pod: &str) -> Option<PodStatus> {
        self.launcher.status().into_iter().find(|status| status.name == pod)
    }

    /// Waits for a pod's status.
    pub(crate) async fn until(&self, pod: &str, what: &str, test: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut last = None;
        until(&format!("{pod}: {what}"), || {
            let status = self.status(pod);
            if status != last {
                eprintln!("    {status:?}");
                last.clone_from(&status);
            }
            status.filter(|status| test(status))
        })
        .await
    }

    pub(crate) async fn gone(&self, pod: &str) {
        until(&format!("{pod} is gone"), || self.status(pod).is_none().then_some(())).await;
    }

    pub(crate) fn log(&self, pod: &str, container: &str) -> String {
        let path = self.options.run_dir.join("logs").join(format!("test_{pod}_{container}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The CNI commands so far, without the configurations.
    pub(crate) fn plugin_commands(&self, command: &str) -> usize {
        let all = std::fs::read_to_string(self.path("commands")).unwrap_or_default();
        all.lines().filter(|line| line.starts_with(command)).count()
    }
}

/// Where the plugin of an instance notes what it does: a link to the test's folder.
pub(crate) fn plugin_folder(instance: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hdl-plugin-{instance}"))
}

/// A pod with one container `c`.
pub(crate) fn pod(name: &str, container: Value, spec: Value) -> Pod {
    let mut one = json!({"name": "c"});
    merge(&mut one, container);
    let mut all = json!({"containers": [one], "terminationGracePeriodSeconds": 5});
    merge(&mut all, spec);
    let metadata = json!({"name": name, "namespace": "test", "labels": {"app": name}});
    serde_json::from_value(json!({"metadata": metadata, "spec": all})).expect("a pod")
}

/// A pod that runs a line of shell.
pub(crate) fn shell(name: &str, line: &str, spec: Value) -> Pod {
    pod(name, json!({"command": ["sh", "-c", line]}), spec)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
