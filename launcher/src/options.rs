//! What a launcher is started with.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one launcher. `new` has the defaults; change fields after it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `heddle` binary: runs `cni` and `pod-exec`. Its folder is searched first for pods' commands.
    pub heddle: PathBuf,
    /// The node's instance.
    pub instance: String,
    /// `/run/heddle/<instance>`: the agent's socket, and below it logs and pods' files.
    pub run_dir: PathBuf,
    /// The instance's cgroup v2 folder; pods live in `pods/` of it.
    pub cgroup: PathBuf,
    /// Pods with another `spec.nodeName` are not started.
    pub node_name: String,
    /// The node's addresses: `status.hostIP`, and the address of `hostNetwork` pods.
    pub node_addresses: Vec<IpAddr>,
    /// Name servers of pods: the cluster addresses of kube-dns. None: pods keep the node's resolv.conf.
    pub dns_servers: Vec<IpAddr>,
    pub cluster_domain: String,
    pub backoff: Backoff,
    /// Longest log file of a container, bytes; one older file of that length is kept beside it.
    pub log_max: u64,
}

/// Time between restarts of a container, as kubelet has it.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second restart; the first comes at once.
    pub initial: Duration,
    /// It doubles up to this.
    pub max: Duration,
    /// A container that ran this long starts from the beginning.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}

impl Backoff {
    /// Pause before restart number `restarts + 1`, after a run of the given length.
    pub(crate) fn pause(&self, restarts: u32) -> Duration {
        match restarts {
            0 => Duration::ZERO,
            n => self.max.min(self.initial.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX))),
        }
    }
}

impl Options {
    /// Defaults for an instance: run folder `/run/heddle/<instance>`, cgroup as given, host name as node.
    pub fn new(heddle: PathBuf, instance: &str, cgroup: PathBuf) -> Self {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Options {
            heddle,
            instance: instance.to_owned(),
            run_dir: PathBuf::from("/run/heddle").join(instance),
            cgroup,
            node_name: hostname.unwrap_or_else(|| "localhost".to_owned()),
            node_addresses: Vec::new(),
            dns_servers: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            backoff: Backoff::default(),
            log_max: 10 << 20,
        }
    }

    /// Path of the agent's API.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// `PATH` of pods: the folder of the heddle binary, then the node's own.
    pub(crate) fn search_path(&self) -> String {
        let inherited = std::env::var("PATH").unwrap_or_default();
        let node = if inherited.is_empty() { "/usr/sbin:/usr/bin:/sbin:/bin" } else { &inherited };
        match self.heddle.parent() {
            Some(folder) => format!("{}:{node}", folder.display()),
            None => node.to_owned(),
        }
    }
}
