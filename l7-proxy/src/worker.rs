//! One thread of the proxy: its own runtime, listeners, connections and upstream pool. Shares nothing with
//! the others on the way of a request but the configuration, which it only reads.

mod shortage;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::config::stream::Current;
use crate::connection;
use crate::control::{Clock, Control, Order};
use crate::flows::{FlowBatch, FlowLog};
use crate::kernel::Kernel;
use crate::listen::Listener;
use crate::metrics::Stats;
use crate::settings::Settings;
use crate::upstream::Ports;
use crate::upstream::link::Link;
use crate::upstream::pool::{Key, Pool};
use shortage::Shortage;

/// How long listeners stay open when the proxy ends: by then its successor has their place, and whoever was
/// in the middle of a handshake is through it.
const LISTEN_ON: Duration = Duration::from_millis(250);
/// How long idle connections may stay when the proxy ends, so that their next request is answered and not
/// reset; at most half of the whole drain.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How often time-outs are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What a worker is made of; crosses into its thread.
#[derive(Debug)]
pub struct Seed {
    pub index: usize,
    pub settings: Arc<Settings>,
    pub kernel: Arc<dyn Kernel>,
    pub current: Arc<Current>,
    pub stats: Arc<Stats>,
    pub flows: mpsc::Sender<FlowBatch>,
    /// Becomes true when the proxy shall end.
    pub stop: watch::Receiver<bool>,
    pub listeners: Vec<Listener>,
}

/// What all connections of one thread share.
#[derive(Debug)]
pub struct Worker {
    pub settings: Arc<Settings>,
    pub kernel: Arc<dyn Kernel>,
    pub current: Arc<Current>,
    pub stats: Arc<Stats>,
    pub flows: FlowLog,
    pub pool: Pool,
    pub ports: Ports,
    pub clock: Arc<Clock>,
    config: RefCell<Cached>,
    connections: RefCell<HashMap<u64, Arc<Control>>>,
    next_connection: Cell<u64>,
}

/// The configuration as this thread saw it last: looking whether it is still the one costs one load.
struct Cached(Cache<Arc<ArcSwap<Config>>, Arc<Config>>);

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cached")
    }
}

impl Worker {
    fn new(seed: &Seed) -> Self {
        Self {
            ports: Ports::new(seed.index, seed.settings.workers),
            settings: Arc::clone(&seed.settings),
            kernel: Arc::clone(&seed.kernel),
            current: Arc::clone(&seed.current),
            stats: Arc::clone(&seed.stats),
            flows: FlowLog::new(seed.flows.clone()),
            pool: Pool::default(),
            clock: Arc::default(),
            config: RefCell::new(Cached(Cache::new(seed.current.pointer()))),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.with_config(Arc::clone)
    }

    /// Looks at the configuration in force, without counting a reference.
    pub fn with_config<T>(&self, look: impl FnOnce(&Arc<Config>) -> T) -> T {
        look(self.config.borrow_mut().0.load())
    }

    /// Keeps an idle upstream connection for the next request.
    pub fn keep(&self, key: Key, link: Box<Link>) {
        self.pool.put(key, link, self.clock.now(), &self.settings.limits);
    }

    fn each(&self, tell: impl Fn(&Control)) {
        // Copied: what wakes up may change the map.
        let all: Vec<_> = self.connections.borrow().values().cloned().collect();
        all.iter().for_each(|control| tell(control));
    }

    fn order_all(&self, order: Order) {
        self.each(|control| control.order(order));
    }

    /// Starts the life of a connection.
    fn adopt(self: &Rc<Self>, stream: TcpStream, client: std::net::SocketAddr) {
        self.stats.accepted.add(1);
        if self.connections.borrow().len() >= self.settings.limits.connections_per_worker {
            self.stats.dropped(abi::DropReason::LimitExceeded);
            return connection::reset(&stream);
        }
        // Small answers must not wait for acknowledgements; without it they are only slower.
        let _ = stream.set_nodelay(true);
        let control = Arc::new(Control::new(Arc::clone(&self.clock)));
        let registered = Registered::new(Rc::clone(self), &control);
        tokio::task::spawn_local(async move {
            let worker = Rc::clone(&registered.worker);
            connection::serve(worker, stream, client, control).await;
            drop(registered);
        });
    }
}

/// A connection's place in its worker's list.
struct Registered {
    worker: Rc<Worker>,
    number: u64,
}

impl Registered {
    fn new(worker: Rc<Worker>, control: &Arc<Control>) -> Self {
        let number = worker.next_connection.get();
        worker.next_connection.set(number + 1);
        worker.connections.borrow_mut().insert(number, Arc::clone(control));
        worker.stats.open.add(1);
        Self { worker, number }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
        self.worker.stats.open.subtract(1);
    }
}

/// Runs a worker on the current thread until the proxy ends.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(live(seed))
}

async fn live(mut seed: Seed) -> io::Result<()> {
    let worker = Rc::new(Worker::new(&seed));
    for listener in std::mem::take(&mut seed.listeners) {
        let listener = TcpListener::from_std(listener.socket)?;
        tokio::task::spawn_local(accept(Rc::clone(&worker), listener, seed.stop.clone()));
    }
    let flushing = Rc::clone(&worker);
    tokio::task::spawn_local(async move { flushing.flows.flush_in_time().await });
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    tokio::task::spawn_local(recheck(Rc::clone(&worker)));
    // An error means that nobody is left who could say stop.
    let _ = seed.stop.wait_for(|stop| *stop).await;
    drain(&worker).await;
    worker.flows.flush();
    Ok(())
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(LISTEN_ON).await;
    };
    tokio::pin!(stopped);
    let mut shortage = Shortage::default();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Only when nobody waits any more: who is in the queue would be reset with it.
            () = &mut stopped => return,
        };
        match accepted {
            Ok((stream, client)) => worker.adopt(stream, client),
            Err(error) => shortage.failed(&worker, &error).await,
        }
    }
}

/// Looks at time-outs once a second.
async fn tick(worker: Rc<Worker>) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now = u32::try_from(started.elapsed().as_secs()).unwrap_or(u32::MAX);
        worker.clock.set(now);
        let limits = &worker.settings.limits;
        worker.each(|control| {
            if control.overdue(limits).is_some() {
                control.order(Order::Close);
            } else if control.sweep_is_due(limits) {
                control.order(Order::Recheck);
            }
        });
        worker.pool.sweep(now, limits);
        worker.stats.flows_lost.set(worker.flows.lost());
    }
}

/// Tells every connection of every new policy revision.
async fn recheck(worker: Rc<Worker>) {
    let mut revision = worker.current.watch();
    while revision.changed().await.is_ok() {
        worker.order_all(Order::Recheck);
    }
}

/// Lets what is open come to its end, for a while.
async fn drain(worker: &Worker) {
    let (begin, drain_max) = (Instant::now(), worker.settings.limits.drain_max);
    let mut idle_end = Some(begin + IDLE_MAX.min(drain_max / 2));
    // Who is in the middle of a handshake is accepted a moment later, and the acceptors still run.
    let is_open = || !worker.connections.borrow().is_empty() || begin.elapsed() < LISTEN_ON;
    worker.order_all(Order::Drain);
    while is_open() && begin.elapsed() < drain_max {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if idle_end.is_some_and(|end| end <= Instant::now()) {
            idle_end = None;
            worker.order_all(Order::EndIdle);
        }
        // Those adopted after the first order.
        worker.each(|control| {
            if !control.is_draining() {
                control.order(Order::Drain);
            }
        });
    }
}
