//! The two processes of a node: started, started again with back-off, ended. They are in process groups of
//! their own, so that Ctrl-C reaches the supervisor alone, which ends things in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::agent::state;
use crate::cli::Global;
use crate::layout::Instance;

/// Before the first restart; doubles with each that follows soon.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest time before a restart. Short, since without a proxy nothing that needs layer 7 passes.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Who ran this long begins with the shortest back-off again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How long a child may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(5);
/// A process, told from a later one of the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    start_time: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let pid = pid.cast_signed();
        Some(Self { pid, start_time: start_time(pid)? })
    }

    /// Whether it lives still.
    pub(super) fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Kills it if it lives still.
    pub(super) fn kill(self) {
        if self.is_alive() {
            // It may have ended since.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    (fields.first()? != "Z").then(|| fields.get(19)?.parse().ok())?
}

/// The fields of /proc/PID/stat from the third, the state, on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Where the processes are written down, for the next run if this one is killed.
pub(super) fn record_path(instance: &Instance) -> PathBuf {
    instance.run_dir().join("children.json")
}

/// The children, each with a task that starts it again.
#[derive(Debug)]
pub(super) struct Children {
    program: PathBuf,
    global: Global,
    record: Arc<Record>,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    stop: watch::Sender<bool>,
    /// How the child ended last.
    ended: watch::Receiver<Option<ExitStatus>>,
    handle: JoinHandle<()>,
}

/// The file that names the living processes.
#[derive(Debug)]
struct Record {
    path: PathBuf,
    processes: Mutex<BTreeMap<&'static str, Process>>,
}

impl Record {
    fn set(&self, name: &'static str, process: Option<Process>) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        match process {
            Some(process) => processes.insert(name, process),
            None => processes.remove(name),
        };
        if let Err(error) = state::write(&self.path, &*processes) {
            tracing::warn!("{error}: should this run be killed, the next one cannot end its processes");
        }
    }
}

impl Children {
    pub(super) fn new(global: &Global) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the heddle program itself")?;
        let record = Record { path: record_path(&global.instance), processes: Mutex::default() };
        Ok(Self { program, global: global.clone(), record: Arc::new(record), tasks: Vec::new() })
    }

    /// Starts `heddle NAME ARGUMENTS` and keeps it running.
    pub(super) fn start(&mut self, name: &'static str, arguments: Vec<String>) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("--instance").arg(self.global.instance.to_string()).arg("--log").arg(&self.global.log);
        command.arg(name).args(arguments).stdin(Stdio::null()).process_group(0);
        let first = spawn(&mut command, name, &self.record)?;
        let (stop, stopped) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(None);
        let supervisor = Supervisor { name, command, record: self.record.clone(), ended: ended_sender };
        let handle = tokio::spawn(supervisor.run(first, stopped));
        self.tasks.push(Task { name, stop, ended, handle });
        Ok(())
    }

    /// How a child ended, if it ever did.
    pub(super) fn ended(&self, name: &str) -> Option<ExitStatus> {
        self.tasks.iter().find(|task| task.name == name).and_then(|task| *task.ended.borrow())
    }

    /// Clock ticks that a child has used of the processor, if it lives (fields 14 and 15 of proc(5)).
    pub(super) fn cpu_ticks(&self, name: &str) -> Option<u64> {
        let processes = self.record.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = stat(processes.get(name)?.pid)?;
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    }

    /// Ends all of them, the newest first.
    pub(super) async fn stop(mut self) {
        while let Some(task) = self.tasks.pop() {
            task.stop.send_replace(true);
            // The task itself does not fail.
            let _ = task.handle.await;
        }
    }
}

fn spawn(command: &mut Command, name: &'static str, record: &Record) -> anyhow::Result<Child> {
    let child = command.spawn().with_context(|| format!("cannot start heddle {name}"))?;
    record.set(name, child.id().and_then(Process::of));
    Ok(child)
}

/// Also when whoever would say so is gone.
async fn stop_wanted(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

struct Supervisor {
    name: &'static str,
    command: Command,
    record: Arc<Record>,
    ended: watch::Sender<Option<ExitStatus>>,
}

impl Supervisor {
    async fn run(mut self, first: Child, mut stopped: watch::Receiver<bool>) {
        let (mut child, mut started, mut backoff) = (first, Instant::now(), BACKOFF_MIN);
        loop {
            tokio::select! {
                status = child.wait() => self.note(status),
                () = stop_wanted(&mut stopped) => return self.end(child).await,
            }
            backoff = if started.elapsed() > STABLE_AFTER { BACKOFF_MIN } else { backoff };
            child = loop {
                tokio::select! {
                    () = sleep(backoff) => {}
                    () = stop_wanted(&mut stopped) => return,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                match spawn(&mut self.command, self.name, &self.record) {
                    Ok(child) => break child,
                    Err(error) => tracing::error!("{error:#}"),
                }
            };
            started = Instant::now();
        }
    }

    fn note(&self, status: std::io::Result<ExitStatus>) {
        self.record.set(self.name, None);
        match status {
            Ok(status) => {
                tracing::error!("heddle {} ended ({status}): it is started again", self.name);
                self.ended.send_replace(Some(status));
            }
            Err(error) => tracing::error!("heddle {}: {error}", self.name),
        }
    }

    /// Asks it to end, then makes it.
    async fn end(&self, mut child: Child) {
        if let Some(pid) = child.id() {
            // It may have ended since.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        if timeout(STOP_MAX, child.wait()).await.is_err()
            && let Err(error) = child.kill().await
        {
            tracing::error!("heddle {} cannot be ended: {error}", self.name);
        }
        self.record.set(self.name, None);
    }
}
