//! A steady load of HTTP requests from a pod, which counts failures instead of stopping at them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Pod;
use crate::http::Connection;
use crate::netns::inside;

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    /// What went wrong, in order; at most a hundred of each thread.
    pub failures: Vec<String>,
}

impl Load {
    /// Sends `per_second` requests for `path` to each target, half of them on new connections, half on
    /// connections that are kept.
    pub fn start(client: &Pod, targets: &[SocketAddr], path: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_secs(1) * 2 / per_second;
        let threads = targets
            .iter()
            .flat_map(|target| [(*target, true), (*target, false)])
            .map(|(target, fresh)| {
                let (stop, path, netns) = (stop.clone(), path.to_owned(), client.netns());
                std::thread::spawn(move || run(netns, target, &path, fresh, interval, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends the load and sums up.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads {
            let tally = thread.join().expect("a load thread");
            sum.requests += tally.requests;
            sum.failures.extend(tally.failures);
        }
        sum
    }
}

fn run(
    netns: PathBuf,
    target: SocketAddr,
    path: &str,
    fresh: bool,
    interval: Duration,
    stop: &Arc<AtomicBool>,
) -> Tally {
    let (path, stop) = (path.to_owned(), stop.clone());
    inside(&netns, move || {
        let mut tally = Tally::default();
        let mut kept: Option<Connection> = None;
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            tally.requests += 1;
            if let Err(error) = one(&mut kept, target, &path, fresh)
                && tally.failures.len() < 100
            {
                let kind = if fresh { "new" } else { "kept" };
                tally.failures.push(format!("request {} ({kind}): {error}", tally.requests));
            }
            next += interval;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        tally
    })
}

fn one(kept: &mut Option<Connection>, target: SocketAddr, path: &str, fresh: bool) -> std::io::Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::new(std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5))?)?,
    };
    let response = connection.request("GET", path, if fresh { &["Connection: close"] } else { &[] })?;
    if response.status != 200 {
        return Err(std::io::Error::other(format!("status {}: {}", response.status, response.text())));
    }
    // A proxy that ends says so; a client that goes on regardless has itself to blame.
    if !fresh && response.header("connection") != Some("close") {
        *kept = Some(connection);
    }
    Ok(())
}
