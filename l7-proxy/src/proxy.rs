//! The whole process: control thread (this one), workers, and how it starts and ends.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{self, Admin};
use crate::config::persist::Store;
use crate::config::stream::{self, Current};
use crate::flows::QUEUE_BATCHES;
use crate::kernel::Kernel;
use crate::listen::{ListenError, Listener, listen};
use crate::metrics::{Metrics, Stats};
use crate::settings::Settings;
use crate::worker::{self, Seed};

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot bind {address}: {source}")]
    Admin { address: std::net::SocketAddr, source: io::Error },
    #[error("cannot put the listener of slot {slot:?} into the kernel's map: {source}")]
    Publish { slot: abi::ListenerSlot, source: io::Error },
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    #[error("worker {0} ended by itself")]
    WorkerDied(usize),
}

/// Runs the proxy until `stop` resolves, then drains. Wants a tokio runtime of the current thread.
///
/// The listeners are published once there is a configuration, from disk or from the agent: until then the
/// kernel drops what is for the proxy, and clients try again, instead of being reset.
pub async fn run(
    settings: Settings,
    kernel: Arc<dyn Kernel>,
    stop: impl Future<Output = ()>,
) -> Result<(), ProxyError> {
    let settings = Arc::new(settings);
    let store = Store::new(&settings.state_dir);
    let current = Arc::new(Current::new(persisted(&store)));
    let workers: Vec<Arc<Stats>> = (0..settings.workers).map(|_| Arc::default()).collect();
    let admin = Arc::new(Admin {
        metrics: Metrics { workers: workers.clone(), current: Arc::clone(&current) },
        ready: AtomicBool::new(false),
    });
    let mut services = Vec::new();
    for address in [settings.admin, settings.metrics] {
        let listener = admin::bind(address).map_err(|source| ProxyError::Admin { address, source })?;
        services.push(AbortOnDrop(tokio::spawn(admin::serve(listener, Arc::clone(&admin)))));
    }
    let (flows, flow_queue) = mpsc::channel(QUEUE_BATCHES);
    let agent = {
        let (settings, current) = (Arc::clone(&settings), Arc::clone(&current));
        tokio::spawn(async move { stream::run(&settings, &current, store, flow_queue).await })
    };
    services.push(AbortOnDrop(agent));

    tokio::pin!(stop);
    let mut revision = current.watch();
    tokio::select! {
        // An error would mean that `current` is gone, which it is not.
        _ = revision.wait_for(|revision| *revision != 0) => {}
        () = &mut stop => return Ok(()),
    }
    let listeners = listen(&settings)?;
    publish(&*kernel, &listeners)?;
    let (stop_workers, stopped) = watch::channel(false);
    let running = start(listeners, workers, |index, listeners, stats| Seed {
        index,
        settings: Arc::clone(&settings),
        kernel: Arc::clone(&kernel),
        current: Arc::clone(&current),
        stats,
        flows: flows.clone(),
        stop: stopped.clone(),
        listeners,
    })?;
    drop(flows);
    admin.ready.store(true, Ordering::Relaxed);
    tracing::info!(workers = settings.workers, revision = current.load().revision, "ready");

    let mut ends = futures_util::future::select_all(running);
    let early = tokio::select! {
        () = &mut stop => None,
        (outcome, index, _) = &mut ends => Some((outcome, index)),
    };
    admin.ready.store(false, Ordering::Relaxed);
    if let Some((outcome, index)) = early {
        return Err(outcome.ok().flatten().map_or(ProxyError::WorkerDied(index), ProxyError::Worker));
    }
    tracing::info!("draining for at most {:?}", settings.limits.drain_max);
    // Nobody is left to tell only if all workers have ended.
    let _ = stop_workers.send(true);
    futures_util::future::join_all(ends.into_inner()).await;
    Ok(())
}

/// What a proxy that ran before has acknowledged.
fn persisted(store: &Store) -> crate::config::Config {
    match store.load() {
        Ok(Some(config)) => {
            tracing::info!(revision = config.revision, "serving the configuration on disk");
            config
        }
        Ok(None) => crate::config::Config::default(),
        Err(error) => {
            // Serving nothing is what is left: the agent sends everything anew.
            tracing::error!(%error, "cannot use the configuration on disk");
            crate::config::Config::default()
        }
    }
}

/// One socket of each group is enough: the kernel spreads over the group that it belongs to.
fn publish(kernel: &dyn Kernel, listeners: &[Vec<Listener>]) -> Result<(), ProxyError> {
    for Listener { slot, socket } in listeners.first().into_iter().flatten() {
        kernel
            .publish_listener(*slot, socket.as_fd())
            .map_err(|source| ProxyError::Publish { slot: *slot, source })?;
    }
    Ok(())
}

type Ended = oneshot::Receiver<Option<io::Error>>;

fn start(
    listeners: Vec<Vec<Listener>>,
    stats: Vec<Arc<Stats>>,
    seed: impl Fn(usize, Vec<Listener>, Arc<Stats>) -> Seed,
) -> Result<Vec<Ended>, ProxyError> {
    let mut running = Vec::new();
    for (index, (listeners, stats)) in listeners.into_iter().zip(stats).enumerate() {
        let seed = seed(index, listeners, stats);
        let (ended, wait) = oneshot::channel();
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                // The receiver is gone only if the whole proxy ends.
                let _ = ended.send(worker::run(seed).err());
            })
            .map_err(ProxyError::Worker)?;
        running.push(wait);
    }
    Ok(running)
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
