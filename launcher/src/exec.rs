//! Puts a process into a pod and becomes its command: the hidden `heddle pod-exec`, and `heddle exec`.
//!
//! A fresh process does this to itself and then executes the command, so that no code runs between a fork
//! and an exec. The order matters: cgroup, network, mounts, privileges, command.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use caps::{CapSet, Capability};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgroups, sethostname, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

/// Exit status of a command that cannot be executed, as shells have it.
const NOT_EXECUTABLE: i32 = 126;
/// Exit status of a command that does not exist.
const NOT_FOUND: i32 = 127;

/// Everything about a container that its processes need; a file in the run directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub netns: Option<PathBuf>,
    pub cgroup: PathBuf,
    pub hostname: Option<String>,
    /// Files mounted over others: (source, target).
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Folders that the pod sees empty: the node's sockets, pins and state.
    pub hidden: Vec<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<PathBuf>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    /// All that is left of root's capabilities.
    pub capabilities: BTreeSet<String>,
    pub no_new_privileges: bool,
}

/// Runs a command in a pod's container (used by the launcher)
#[derive(Debug, clap::Args)]
pub struct PodExec {
    /// Description of the container.
    pub spec: PathBuf,
    /// Stay in the caller's session, so that the terminal's signals arrive.
    #[arg(long)]
    pub same_session: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Why a process could not become the command.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("reading {0}: {1}")]
    Spec(PathBuf, #[source] io::Error),
    #[error("{0}: {1}")]
    Step(String, #[source] io::Error),
    #[error("no container of pod {0} is running here")]
    NoPod(String),
}

impl PodExec {
    /// Becomes the command. Returns only if that fails: with the exit status for a command that cannot be
    /// executed, or with an error. To be called before any thread is started.
    pub fn run(&self) -> Result<i32, ExecError> {
        let bytes = std::fs::read(&self.spec).map_err(|e| ExecError::Spec(self.spec.clone(), e))?;
        let spec: Spec =
            serde_json::from_slice(&bytes).map_err(|e| ExecError::Spec(self.spec.clone(), e.into()))?;
        let Some((program, arguments)) = self.command.split_first() else { return Ok(NOT_EXECUTABLE) };
        enter(&spec, self.same_session)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&spec.env);
        // The command is searched in the container's PATH: std looks there when it is set explicitly.
        let error = command.exec();
        eprintln!("heddle: cannot execute {}: {error}", program.display());
        Ok(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
    }
}

/// Finds the description of a running container. Without a name it is the pod's first.
pub fn find_spec(
    run_dir: &Path,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
) -> Result<PathBuf, ExecError> {
    let key = crate::names::PodKey { namespace: namespace.to_owned(), name: pod.to_owned() };
    let folder = run_dir.join("pods").join(key.file_name());
    let found = match container {
        Some(name) => Some(folder.join(format!("{name}.json"))).filter(|path| path.exists()),
        None => std::fs::read_link(folder.join("first")).ok().map(|target| folder.join(target)),
    };
    found.ok_or_else(|| ExecError::NoPod(key.to_string()))
}

fn enter(spec: &Spec, same_session: bool) -> Result<(), ExecError> {
    let procs = spec.cgroup.join("cgroup.procs");
    step(|| format!("joining {}", spec.cgroup.display()), std::fs::write(procs, "0"))?;
    if let Some(path) = &spec.netns {
        let file = std::fs::File::open(path).map_err(|e| ExecError::Spec(path.clone(), e))?;
        let entered = setns(file, CloneFlags::CLONE_NEWNET);
        step(|| format!("entering {}", path.display()), entered.map_err(io::Error::from))?;
    }
    let unshared = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS);
    step(|| "making a mount namespace".to_owned(), unshared.map_err(io::Error::from))?;
    // What the node mounts later shows here; what is mounted here stays here.
    mounted(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    for (source, target) in &spec.binds {
        mounted(Some(source.as_path()), target, MsFlags::MS_BIND)?;
    }
    for folder in spec.hidden.iter().filter(|folder| folder.exists()) {
        hide(folder)?;
    }
    if let Some(name) = &spec.hostname {
        step(|| "setting the host name".to_owned(), sethostname(name).map_err(io::Error::from))?;
    }
    if !same_session {
        step(|| "starting a session".to_owned(), setsid().map_err(io::Error::from))?;
    }
    if let Some(folder) = &spec.working_dir {
        let entered = std::env::set_current_dir(folder);
        step(|| format!("entering workingDir {}", folder.display()), entered)?;
    }
    drop_privileges(spec)
}

fn drop_privileges(spec: &Spec) -> Result<(), ExecError> {
    let keep: BTreeSet<&str> = spec.capabilities.iter().map(String::as_str).collect();
    let caps_step = |result: Result<(), caps::errors::CapsError>| {
        step(|| "dropping capabilities".to_owned(), result.map_err(io::Error::other))
    };
    for capability in caps::runtime::thread_all_supported() {
        if !keep.contains(capability.to_string().as_str()) {
            caps_step(caps::drop(None, CapSet::Bounding, capability))?;
        }
    }
    caps_step(caps::clear(None, CapSet::Ambient))?;
    caps_step(caps::set(None, CapSet::Inheritable, &std::collections::HashSet::<Capability>::new()))?;
    let group = spec.group.or(spec.user).map(Gid::from_raw);
    if let Some(group) = group {
        let set = setgroups(&[group]).and_then(|()| setresgid(group, group, group));
        step(|| "setting the group".to_owned(), set.map_err(io::Error::from))?;
    }
    if let Some(user) = spec.user.map(Uid::from_raw) {
        step(|| "setting the user".to_owned(), setresuid(user, user, user).map_err(io::Error::from))?;
    }
    if spec.no_new_privileges {
        let set = nix::sys::prctl::set_no_new_privs();
        step(|| "forbidding new privileges".to_owned(), set.map_err(io::Error::from))?;
    }
    Ok(())
}

/// Puts an empty folder that nothing can be written to over a folder.
fn hide(folder: &Path) -> Result<(), ExecError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("size=4k,mode=0555"));
    step(|| format!("hiding {}", folder.display()), mounted.map_err(io::Error::from))
}

fn mounted(source: Option<&Path>, target: &Path, flags: MsFlags) -> Result<(), ExecError> {
    let none: Option<&OsStr> = None;
    let done = mount(source, target, none, flags, none).map_err(io::Error::from);
    step(|| format!("mounting over {}", target.display()), done)
}

fn step<T>(what: impl FnOnce() -> String, result: io::Result<T>) -> Result<T, ExecError> {
    result.map_err(|e| ExecError::Step(what(), e))
}
