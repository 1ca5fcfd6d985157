//! `heddle run`: a whole node in one command. Supervises `heddle agent` and `heddle proxy` as two processes
//! (neither's end is the other's), runs the pods of the manifests if asked, and takes everything away at its
//! end. What a killed run left, the next one removes first.

mod children;
mod cleanup;
mod pods;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::args::NodeArgs;
use crate::api::client::Client;
use crate::api::types::Status;
use crate::cli::Global;
use crate::layout::{Instance, cgroup2_mount};
use crate::node::ensure_bpffs;
use crate::proxy_cmd::Listeners;
use children::Children;

/// How long the agent and then the proxy may do nothing at all before they are ready. Thousands of manifests
/// take as long as they take.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How often it is said that something is not ready yet.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long the proxy's connections may take to end, once everything ends.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How often it is asked whether they are.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Run a whole node: agent, proxy and, with --run-pods, the pods of the manifests.
///
/// Ctrl-C, SIGTERM or a closed terminal removes everything again: pods, programs, rules, cgroup and state.
/// Pods that a container runtime started live on, without a network: nothing would be enforced on them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle run --manifests ./shop --run-pods          try manifests on this machine
  heddle run --manifests /etc/heddle/manifests      a node whose pods a container runtime starts
  heddle --instance two run --manifests ./shop --pod-cidr 10.9.0.0/24
Look at it from another terminal: heddle status, heddle flows -f, heddle policy explain ...")]
pub struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Run each Pod of the manifests as processes in a network namespace of its own.
    #[arg(long, conflicts_with = "kubernetes")]
    run_pods: bool,
    /// How the proxy's workers share its listeners; see `heddle proxy --help`.
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    proxy_listeners: Listeners,
    /// Threads of the proxy; the default is one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    proxy_workers: Option<u16>,
}

impl Args {
    /// Runs until a signal ends it.
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.whole(global))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn whole(&self, global: &Global) -> anyhow::Result<()> {
        prerequisites(&self.node)?;
        let instance = &global.instance;
        let lock = lock(instance)?;
        let mut signals = Signals::new()?;
        if cleanup::is_left(instance) {
            say("removing what an earlier run left");
            cleanup::end_processes(instance);
            // Pods of a container runtime live on, and so does what is enforced on them: the new agent
            // takes it over.
            if self.run_pods {
                cleanup::all(instance, self.node.uid).await?;
            }
        }
        let outcome = self.supervised(global, &mut signals).await;
        say("removing everything");
        let plugin = self.node.cni_files(instance).map_or(Ok(()), |files| files.remove());
        let removed = cleanup::all(instance, self.node.uid).await.and(plugin.map_err(Into::into));
        // The file goes while it is locked: whoever has it open already is told that it is taken.
        let _ = std::fs::remove_file(lock_path(instance));
        drop(lock);
        let _ = lock_path(instance).parent().map(std::fs::remove_dir);
        outcome.and(removed)
    }

    async fn supervised(&self, global: &Global, signals: &mut Signals) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut children = Children::new(global)?;
        let client = Client::new(&global.instance);
        let up = tokio::select! {
            up = self.bring_up(global, &client, &mut children) => up,
            () = signals.next() => {
                children.stop().await;
                return Ok(());
            }
        };
        let mut pods = match up {
            Ok(pods) => pods,
            Err(error) => {
                children.stop().await;
                return Err(error);
            }
        };
        let what = if self.run_pods { "the node is ready" } else { "ready" };
        say(&format!("{what} after {:.1} s; Ctrl-C ends it", begin.elapsed().as_secs_f32()));
        let follow = async {
            if self.run_pods {
                let told = pods::all_ready(&client);
                let tell = async {
                    let pods = told.await;
                    say(&format!("all {pods} pods are ready after {:.1} s", begin.elapsed().as_secs_f32()));
                };
                tokio::join!(pods::follow(&client, pods.as_mut()), tell);
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = follow => {}
            () = signals.next() => {}
        }
        if let Some(pods) = &mut pods {
            say("ending the pods");
            pods.shutdown().await;
        }
        children.stop().await;
        Ok(())
    }

    /// Starts the agent, then the proxy, then prepares the launcher.
    async fn bring_up(
        &self,
        global: &Global,
        client: &Client,
        children: &mut Children,
    ) -> anyhow::Result<Option<launcher::Launcher>> {
        match &self.node.manifests {
            Some(manifests) => say(&format!("starting the agent on {}", manifests.display())),
            None => say("starting the agent on the cluster's API server"),
        }
        let mut node = self.node.clone();
        // Pods want names, and the launcher points them at this server.
        node.cluster_dns |= self.run_pods;
        children.start("agent", node.to_arguments())?;
        let status = ready(client, children, "agent", |status| status.revision != 0).await?;
        say(&format!("the agent has policy revision {} in force; starting the proxy", status.revision));
        let (uid, drain) = (self.node.uid.to_string(), DRAIN_MAX.as_secs().to_string());
        let listeners = match self.proxy_listeners {
            Listeners::Auto => "auto",
            Listeners::Shared => "shared",
            Listeners::PerWorker => "per-worker",
        };
        let fixed = ["--uid", &uid, "--gid", &uid, "--drain-max", &drain, "--listeners", listeners];
        let mut arguments = fixed.map(String::from).to_vec();
        if let Some(workers) = self.proxy_workers {
            arguments.extend(["--workers".to_owned(), workers.to_string()]);
        }
        children.start("proxy", arguments)?;
        ready(client, children, "proxy", |status| status.enforcing).await?;
        if !self.run_pods {
            return Ok(None);
        }
        say("the proxy has it too; starting the pods");
        Ok(Some(pods::start(global, client).await?))
    }
}

/// Waits until the agent's status is as wanted, for as long as `what` works on it.
async fn ready(
    client: &Client,
    children: &Children,
    what: &'static str,
    wanted: impl Fn(&Status) -> bool,
) -> anyhow::Result<Status> {
    let mut patience = Patience::new(Instant::now());
    loop {
        let answer = match client.get::<Status>("/v1/status").await {
            Ok(status) if wanted(&status) => return Ok(status),
            Ok(status) => crate::cli::show::status_text(&status),
            Err(error) => error.to_string(),
        };
        if let Some(status) = children.ended(what) {
            bail!("the {what} ended before it was ready ({status}): what it said is above");
        }
        match patience.look(Instant::now(), children.cpu_ticks(what)) {
            Look::Wait => {}
            Look::Say(waited) => {
                say(&format!("the {what} is at work, not ready after {} s", waited.as_secs()))
            }
            Look::GiveUp => {
                bail!("the {what} is not ready and has done nothing for {STALL_MAX:?}: {answer}")
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// How long a child is waited for: as long as it uses the processor.
struct Patience {
    began: Instant,
    said: Instant,
    moved: Instant,
    ticks: Option<u64>,
}

/// What to do about a child that is not ready.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Wait,
    /// Time for a line about it; how long it takes already.
    Say(Duration),
    GiveUp,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { began: now, said: now, moved: now, ticks: None }
    }

    /// `ticks`: the processor time that the child has used.
    fn look(&mut self, now: Instant, ticks: Option<u64>) -> Look {
        if ticks != self.ticks {
            (self.ticks, self.moved) = (ticks, now);
        }
        if now.duration_since(self.moved) >= STALL_MAX {
            return Look::GiveUp;
        }
        if now.duration_since(self.said) >= SAY_EVERY {
            self.said = now;
            return Look::Say(now.duration_since(self.began));
        }
        Look::Wait
    }
}

/// Takes everything of an instance off the node. Its processes have ended.
pub(crate) async fn remove_everything(instance: &Instance, uid: u32) -> anyhow::Result<()> {
    cleanup::all(instance, uid).await
}

/// What a node needs, each with one sentence that says how to get it.
fn prerequisites(args: &NodeArgs) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("heddle run needs root (eBPF, network namespaces, cgroups): use sudo");
    }
    ebpf_redirect::prerequisites()?;
    if cgroup2_mount().is_none() {
        bail!(
            "cgroup v2 is not mounted: mount it with `mkdir -p /sys/fs/cgroup/unified && \
             mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
        );
    }
    crate::descriptors::raise_limit()?;
    ensure_bpffs()?;
    if let Some(manifests) = &args.manifests {
        crate::sources::readable(manifests)?;
    }
    Ok(())
}

fn lock_path(instance: &Instance) -> PathBuf {
    instance.run_dir().with_extension("lock")
}

/// One `heddle run` for each instance.
fn lock(instance: &Instance) -> anyhow::Result<Flock<std::fs::File>> {
    let path = lock_path(instance);
    std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "instance {instance} runs already ({} is locked: {error}): end it, or choose another --instance",
            path.display()
        )
    })
}

/// The signals that end it, from the beginning on: what was started is removed whenever they come. A closed
/// terminal is a SIGHUP, Ctrl-\ a SIGQUIT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    /// `None`: whoever started it (nohup) wants it to outlive the terminal.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let hangup = !is_ignored(nix::sys::signal::Signal::SIGHUP);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: hangup.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether the process was started with a signal ignored (`SigIgn` of proc(5), a mask whose lowest bit is
/// signal 1).
fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as i32 - 1)) != 0
}

/// A line of progress. Standard output may be gone; the node goes on.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "heddle: {line}");
}

#[cfg(test)]
mod tests;
