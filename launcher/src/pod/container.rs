//! The life of one container: its process, its probes, its restarts.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Stop;
use crate::cgroup;
use crate::exec::Spec;
use crate::logs::{self, LogFile};
use crate::plan::{Addresses, ContainerPlan, PodPlan, RestartPolicy, expand, resolve};
use crate::probe::{self, Target, Unhealthy};
use crate::sandbox::{Sandbox, Shared};

/// How long the rest of a log may take after the container's last process is gone.
const LOG_DRAIN_MAX: Duration = Duration::from_secs(1);

/// Which container of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Init(usize),
    Main(usize),
}

/// How a container ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    Badly,
    Stopped,
}

/// How one run of a container ended.
enum RunEnd {
    Exited { ok: bool, message: String },
    Stopped,
}

/// Runs a container, again and again as the pod's policy says.
pub(super) async fn run(
    shared: Arc<Shared>,
    plan: Arc<PodPlan>,
    sandbox: Arc<Sandbox>,
    role: Role,
    mut stop: Stop,
) -> Ended {
    let container = match role {
        Role::Init(index) => &plan.init[index],
        Role::Main(index) => &plan.containers[index],
    };
    let one = One { shared: &shared, plan: &plan, sandbox: &sandbox, container, role };
    let backoff = shared.options.backoff;
    let mut in_row = 0;
    loop {
        let began = Instant::now();
        let end = one.run_once(&mut stop).await;
        shared.board.container(&plan.key, &container.name, |status| {
            (status.ready, status.pid) = (false, None);
            if let RunEnd::Exited { message, .. } = &end {
                status.message.clone_from(message);
            }
        });
        let RunEnd::Exited { ok, message } = end else { return Ended::Stopped };
        let again = match (role, plan.restart) {
            (Role::Main(_), RestartPolicy::Always) => true,
            (_, RestartPolicy::Never) => false,
            (Role::Init(_), _) | (_, RestartPolicy::OnFailure) => !ok,
        };
        if !again {
            return if ok { Ended::Well } else { Ended::Badly };
        }
        if began.elapsed() >= backoff.reset_after {
            in_row = 0;
        }
        let pause = backoff.pause(in_row);
        in_row += 1;
        info!(pod = %plan.key, container = container.name, %message, ?pause, "restarting");
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.wait() => return Ended::Stopped,
        }
        shared.board.container(&plan.key, &container.name, |status| status.restarts += 1);
    }
}

/// One container and all that surrounds it.
struct One<'a> {
    shared: &'a Shared,
    plan: &'a PodPlan,
    sandbox: &'a Sandbox,
    container: &'a ContainerPlan,
    role: Role,
}

impl One<'_> {
    /// Starts the process and stays with it to its end; afterwards no process of the container is left.
    async fn run_once(&self, stop: &mut Stop) -> RunEnd {
        let (mut child, log, spec) = match self.spawn() {
            Ok(started) => started,
            Err(error) => {
                warn!(pod = %self.plan.key, container = self.container.name, %error, "cannot start");
                return RunEnd::Exited { ok: false, message: error.to_string() };
            }
        };
        let (key, name) = (&self.plan.key, &self.container.name);
        self.shared.board.container(key, name, |status| {
            (status.pid, status.message) = (child.id(), String::new());
        });
        let health = self.health(spec);
        let end = tokio::select! {
            status = child.wait() => exited(status),
            unhealthy = health => {
                warn!(pod = %key, container = name, reason = unhealthy.reason, "ending an unhealthy container");
                self.shared.board.container(key, name, |status| status.ready = false);
                self.terminate(&mut child, unhealthy.grace.unwrap_or(self.plan.grace)).await;
                RunEnd::Exited { ok: false, message: unhealthy.reason }
            }
            () = stop.wait() => {
                self.shared.board.container(key, name, |status| status.ready = false);
                self.terminate(&mut child, self.plan.grace).await;
                RunEnd::Stopped
            }
        };
        // What it left behind ends with it, as in a container of its own process ids.
        if let Err(error) = cgroup::kill(&self.cgroup()).await {
            warn!(pod = %key, container = name, %error, "processes are left");
        }
        timeout(LOG_DRAIN_MAX, log).await.ok();
        end
    }

    /// Never resolves for an init container: those have no probes.
    async fn health(&self, spec: PathBuf) -> Unhealthy {
        if let Role::Init(_) = self.role {
            return std::future::pending().await;
        }
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        let target = Target {
            address: self.sandbox.addresses.first().copied().unwrap_or(loopback),
            heddle: self.shared.options.heddle.clone(),
            spec,
        };
        let ready = |ready: bool, message: String| {
            self.shared.board.container(&self.plan.key, &self.container.name, |status| {
                (status.ready, status.message) = (ready, message);
            });
        };
        probe::watch(self.container, &target, ready).await
    }

    /// SIGTERM, and after the grace period SIGKILL for everything in the container.
    async fn terminate(&self, child: &mut Child, grace: Duration) {
        // The id is there as long as nobody has waited for the process, so it cannot be another's.
        let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        if timeout(grace, child.wait()).await.is_ok() {
            return;
        }
        info!(pod = %self.plan.key, container = self.container.name, ?grace, "did not end, killing it");
        cgroup::kill(&self.cgroup()).await.ok();
        // It may have moved itself out of the cgroup.
        child.kill().await.ok();
    }

    fn cgroup(&self) -> PathBuf {
        self.sandbox.cgroup.join(&self.container.name)
    }

    fn spawn(&self) -> io::Result<(Child, JoinHandle<()>, PathBuf)> {
        let options = &self.shared.options;
        cgroup::create(&self.cgroup())?;
        let spec = self.spec();
        let words: Vec<String> = self.container.words.iter().map(|word| expand(word, &spec.env)).collect();
        let path = self.sandbox.folder.join(format!("{}.json", self.container.name));
        fs::write(&path, serde_json::to_vec(&spec)?)?;
        if self.role == Role::Main(0) {
            let link = self.sandbox.folder.join("first");
            fs::remove_file(&link).ok();
            symlink(format!("{}.json", self.container.name), link)?;
        }
        let log = format!("{}_{}.log", self.plan.key.file_name(), self.container.name);
        let log = LogFile::open(&options.run_dir.join("logs").join(log), options.log_max)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&options.heddle);
        command.arg("--instance").arg(&options.instance).arg("pod-exec").arg(&path).arg("--").args(&words);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).kill_on_drop(true);
        let child = command.spawn()?;
        // The command holds the pipe's writing end; with it open the log would never end.
        drop(command);
        Ok((child, tokio::spawn(logs::copy(reader.into(), log)), path))
    }

    fn spec(&self) -> Spec {
        let (options, plan, container) = (&self.shared.options, self.plan, self.container);
        let base = [
            ("PATH".to_owned(), options.search_path()),
            ("HOME".to_owned(), "/root".to_owned()),
            ("HOSTNAME".to_owned(), plan.hostname.clone()),
        ];
        let addresses = Addresses { pod: &self.sandbox.addresses, host: &options.node_addresses };
        let hidden = ["/run/heddle", "/var/lib/heddle", "/sys/fs/bpf"];
        Spec {
            netns: self.sandbox.netns(),
            cgroup: self.cgroup(),
            hostname: (!plan.host_network).then(|| plan.hostname.clone()),
            binds: self.sandbox.binds(),
            hidden: hidden
                .iter()
                .filter(|folder| !(plan.agent_api && **folder == "/run/heddle"))
                .map(PathBuf::from)
                .collect(),
            env: resolve(&container.env, addresses, base.into()),
            working_dir: container.working_dir.clone().map(PathBuf::from),
            user: container.user,
            group: container.group,
            capabilities: container.capabilities.iter().cloned().collect(),
            no_new_privileges: container.no_new_privileges,
        }
    }
}

fn exited(status: io::Result<ExitStatus>) -> RunEnd {
    match status {
        Ok(status) => RunEnd::Exited { ok: status.success(), message: format!("ended with {status}") },
        Err(error) => RunEnd::Exited { ok: false, message: error.to_string() },
    }
}
