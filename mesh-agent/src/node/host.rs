//! What the host must have for eBPF: a BPF file system and cgroup v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::layout::{self, Instance};

const BPFFS: &str = "/sys/fs/bpf";

/// What the host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(
        "cannot mount the BPF file system at /sys/fs/bpf: {0}; as root, run `mount -t bpf bpf /sys/fs/bpf`"
    )]
    Bpffs(#[source] io::Error),
    #[error(
        "cgroup v2 is not mounted: as root, run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` (make the folder first), or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    #[error("cannot {operation} cgroup {path}: {source}")]
    Cgroup { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Mounts the BPF file system if nobody has. (Inside `ip netns exec` /sys is another one, private to that
/// command: what is pinned there is gone with it. Use `nsenter --net=...` instead.)
pub fn ensure_bpffs() -> Result<(), HostError> {
    if statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Searchable by all: the proxy has to pass. What is in it has permissions of its own.
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0711"))
        .map_err(|error| HostError::Bpffs(error.into()))
}

/// Makes the instance's cgroup and its folder `pods`, and returns the cgroup of all processes of the machine.
pub fn make_cgroup(instance: &Instance) -> Result<PathBuf, HostError> {
    let root = layout::cgroup2_mount().ok_or(HostError::NoCgroup2)?;
    let pods = instance.cgroup(&root).join("pods");
    fs::create_dir_all(&pods).map_err(|source| HostError::Cgroup {
        operation: "make",
        path: pods,
        source,
    })?;
    Ok(root)
}

/// Removes the instance's cgroup and all that is empty below it. Processes in it keep it.
pub fn remove_cgroup(instance: &Instance) -> Result<(), HostError> {
    let Some(mount) = layout::cgroup2_mount() else { return Ok(()) };
    let root = instance.cgroup(&mount);
    if root.exists() {
        remove_tree(&root).map_err(|source| HostError::Cgroup {
            operation: "remove",
            path: root.clone(),
            source,
        })?;
    }
    // The folder of all instances, once the last is gone.
    if let Some(parent) = root.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// A cgroup's files cannot be removed and need not be: only the folders.
fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
