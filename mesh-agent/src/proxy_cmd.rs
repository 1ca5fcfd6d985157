//! `heddle proxy`: the data plane as a process of its own, with its own user and one capability.
//!
//! Owns what the crate `l7-proxy` must not know: privileges, pins and signals.

mod kernel;
mod privileges;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use l7_proxy::{Bind, Limits, Settings, Sharing};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Global;
use kernel::PinnedMaps;

/// User and group of the proxy: a number no package uses, the same on every node.
pub const PROXY_ID: u32 = 64815;

/// How often the proxy looks whether the pins are still there, at the start and later.
const PINS_INTERVAL: Duration = Duration::from_secs(1);

/// Run the node's proxy: the data plane for connections that need layer 7.
///
/// Started as root it drops to its own user and keeps CAP_NET_RAW only. It needs no agent: it serves its
/// last acknowledged configuration. SIGTERM lets open connections end first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  heddle proxy --workers 2\n  heddle --instance test proxy --drain-max 5")]
pub struct Args {
    /// Threads; the default is one for each core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// How workers share the listeners' ports; auto asks the running kernel's version.
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    listeners: Listeners,
    /// User to become if started as root.
    #[arg(long, default_value_t = PROXY_ID)]
    uid: u32,
    /// Group to become if started as root; the pins must be open to it.
    #[arg(long, default_value_t = PROXY_ID)]
    gid: u32,
    /// Listener for what pods of this node open.
    #[arg(long, default_value_t = 15001)]
    egress_port: u16,
    /// Listener for what comes to pods of this node from elsewhere.
    #[arg(long, default_value_t = 15006)]
    ingress_port: u16,
    /// Address of /ready, /config_dump and /stats.
    #[arg(long, default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
    admin_addr: SocketAddr,
    /// Address of /metrics.
    #[arg(long, default_value = "127.0.0.1:15021", value_name = "ADDRESS")]
    metrics_addr: SocketAddr,
    /// The agent's socket instead of the instance's.
    #[arg(long, value_name = "PATH")]
    agent_socket: Option<PathBuf>,
    /// Folder of the last acknowledged configuration instead of the instance's.
    #[arg(long, value_name = "PATH")]
    state_dir: Option<PathBuf>,
    /// Folder of the pinned maps instead of the instance's.
    #[arg(long, value_name = "PATH")]
    pin_root: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// `--listeners`, and `--proxy-listeners` of `heddle run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Listeners {
    /// As the kernel can.
    #[default]
    Auto,
    /// One socket, from which all workers accept.
    Shared,
    /// One socket for each worker; Linux 6.6 or newer.
    PerWorker,
}

impl Listeners {
    fn sharing(self) -> Sharing {
        match self {
            Self::Shared => Sharing::Shared,
            Self::PerWorker => Sharing::PerWorker,
            Self::Auto => nix::sys::utsname::uname()
                .ok()
                .and_then(|name| kernel_version(&name.release().to_string_lossy()))
                .map_or(Sharing::Shared, supported),
        }
    }
}

/// Before Linux 6.6 `bpf_sk_assign` refuses sockets of a SO_REUSEPORT group.
fn supported(version: (u32, u32)) -> Sharing {
    if version >= (6, 6) { Sharing::PerWorker } else { Sharing::Shared }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Limits and time-outs; times in seconds.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Longest request or response head in bytes.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(8192..=1 << 20))]
    header_bytes: u64,
    /// From the first byte of a request head to its last.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    head_timeout: Duration,
    /// From accept to the first byte, where the protocol must be known.
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    first_byte_timeout: Duration,
    /// A connection on which nothing moves for so long is closed.
    #[arg(long, default_value = "3600", value_parser = seconds, value_name = "SECONDS")]
    idle_timeout: Duration,
    /// For the TCP handshake with a backend.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    connect_timeout: Duration,
    /// How long a new connection waits for the policy revision it was redirected under.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    revision_wait: Duration,
    /// An upstream connection that is not used for so long is closed.
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pool_idle_timeout: Duration,
    /// How long open connections may take to end after SIGTERM.
    #[arg(long, default_value = "30", value_parser = seconds, value_name = "SECONDS")]
    drain_max: Duration,
    /// A request on which nothing moves for so long is ended; 0 = never.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    stream_idle_timeout: Duration,
    /// Longest request body in bytes; 0 = any.
    #[arg(long, default_value_t = 0)]
    request_body_bytes: u64,
    /// HTTP/2 frames of one client and second that only make work (PING, SETTINGS, ...), besides ten for each
    /// useful one.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    h2_control_frames: u32,
    /// Open streams of one HTTP/2 client.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    h2_streams: u32,
    /// Client connections of one worker.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_worker: u32,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits {
            header_bytes: usize::try_from(self.header_bytes).unwrap_or(usize::MAX),
            head_timeout: self.head_timeout,
            first_byte_timeout: self.first_byte_timeout,
            idle_timeout: self.idle_timeout,
            connect_timeout: self.connect_timeout,
            revision_wait: self.revision_wait,
            pool_idle_timeout: self.pool_idle_timeout,
            drain_max: self.drain_max,
            stream_idle_timeout: self.stream_idle_timeout,
            request_body_bytes: self.request_body_bytes,
            h2_control_frames: self.h2_control_frames,
            h2_streams: self.h2_streams,
            connections_per_worker: usize::try_from(self.connections_per_worker).unwrap_or(usize::MAX),
            ..Limits::default()
        }
    }
}

impl Args {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let instance = &global.instance;
        let pin_root = self.pin_root.clone().unwrap_or_else(|| instance.pin_root());
        let settings = self.settings(global);
        crate::descriptors::raise_limit()?;
        privileges::own_folder(&settings.state_dir, self.uid, self.gid)?;
        privileges::drop_to(self.uid, self.gid)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let kernel = tokio::select! {
                kernel = PinnedMaps::wait(&pin_root, PINS_INTERVAL) => Arc::new(kernel),
                _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            };
            let (watched, mut replaced) = (Arc::clone(&kernel), false);
            let stop = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = watched.replaced(PINS_INTERVAL) => replaced = true,
                }
            };
            l7_proxy::run(settings, kernel, stop).await.context("the proxy cannot run")?;
            anyhow::ensure!(!replaced, "the maps below {} were replaced: start me again", pin_root.display());
            Ok(ExitCode::SUCCESS)
        })
    }

    fn settings(&self, global: &Global) -> Settings {
        let instance = &global.instance;
        let defaults = Settings::default();
        Settings {
            workers: self.workers.map_or(defaults.workers, usize::from),
            egress_port: self.egress_port,
            ingress_port: self.ingress_port,
            admin: self.admin_addr,
            metrics: self.metrics_addr,
            agent_socket: self.agent_socket.clone().unwrap_or_else(|| instance.proxy_socket()),
            state_dir: self.state_dir.clone().unwrap_or_else(|| instance.proxy_dir()),
            bind: Bind::Transparent,
            sharing: self.listeners.sharing(),
            version: String::from(env!("CARGO_PKG_VERSION")),
            limits: self.limits.limits(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Sharing, kernel_version, supported};

    #[test]
    fn which_kernels_take_a_group_of_sockets() {
        for (release, want) in [
            ("6.1.0-18-amd64", Some(Sharing::Shared)),
            ("6.5.13", Some(Sharing::Shared)),
            ("6.6-rc1", Some(Sharing::PerWorker)),
            ("6.12.57+deb13-amd64", Some(Sharing::PerWorker)),
            ("7.0.0", Some(Sharing::PerWorker)),
            ("unknown", None),
        ] {
            assert_eq!(kernel_version(release).map(supported), want, "{release}");
        }
    }
}
