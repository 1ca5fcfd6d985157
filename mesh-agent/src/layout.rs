//! Where an instance keeps its things. An instance is one node's worth of Heddle; its name separates run
//! folder, pins, cgroup and durable state, so that several live side by side on one machine (in network
//! namespaces of their own).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest name of an instance: it is part of paths of Unix sockets, which end at 108 bytes.
pub const INSTANCE_NAME_MAX: usize = 40;

/// The name of an instance: `[a-z0-9-]`, at most [`INSTANCE_NAME_MAX`] characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(String);

/// Why a name cannot be an instance's.
#[derive(Debug, thiserror::Error)]
#[error("instance name {0:?}: use 1 to 40 of a-z, 0-9 and -, the first not -")]
pub struct BadInstance(String);

impl FromStr for Instance {
    type Err = BadInstance;

    fn from_str(name: &str) -> Result<Self, BadInstance> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let valid = !name.is_empty()
            && name.len() <= INSTANCE_NAME_MAX
            && !name.starts_with('-')
            && name.chars().all(allowed);
        if valid { Ok(Self(name.to_owned())) } else { Err(BadInstance(name.to_owned())) }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Instance {
    /// `/run/heddle/<instance>`: sockets; gone after a reboot.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run/heddle").join(&self.0)
    }

    /// The agent's API: HTTP/1.1 and JSON, root only.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    /// Where the agent waits for the proxy.
    pub fn proxy_socket(&self) -> PathBuf {
        self.run_dir().join("proxy.sock")
    }

    /// Folder of the proxy's user: its last acknowledged configuration.
    pub fn proxy_dir(&self) -> PathBuf {
        self.run_dir().join("proxy")
    }

    /// What must outlive a reboot: identities, addresses, endpoints.
    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib/heddle").join(&self.0)
    }

    /// The folder of pins of every version of the layout.
    pub fn pin_base(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf/heddle").join(&self.0)
    }

    /// The folder of pins of this version of the layout.
    pub fn pin_root(&self) -> PathBuf {
        self.pin_base().join(format!("v{}", abi::ABI_VERSION))
    }

    /// The instance's cgroup below the mount point of cgroup v2; pods live in `pods/` of it.
    pub fn cgroup(&self, mount: &std::path::Path) -> PathBuf {
        mount.join("heddle").join(&self.0)
    }
}

/// Where cgroup v2 is mounted, as `/proc/self/mounts` tells (systemd's hybrid set-up has it at
/// `/sys/fs/cgroup/unified`). `None`: it is not.
pub fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}
