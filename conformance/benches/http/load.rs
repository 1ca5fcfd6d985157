//! The load generator: a closed loop of HTTP/1.1 requests over a number of connections, in one thread. The
//! benchmark starts it as a process of its own, so that it can be pinned and put into a pod's namespace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::measure::cpu_of;

/// Of connections that shall only be held, so many at a time send their request.
const RAMP: usize = 16;
/// Longest answer that is understood, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// What to load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: usize,
    pub(crate) seconds: f32,
    /// A new connection for every request.
    pub(crate) fresh: bool,
    /// Only hold the connections after one request each.
    pub(crate) idle: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    /// Answers with another status than 200, and connections that failed.
    pub(crate) failures: u64,
    pub(crate) seconds: f64,
    /// CPU time of the generator itself, in microseconds.
    pub(crate) cpu: f64,
}

/// Runs the plan. Prints `ready` when the load starts and the report as JSON at the end.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs_f32(plan.seconds);
        let ramp = Arc::new(Semaphore::new(if plan.idle { RAMP } else { plan.connections }));
        let workers: Vec<_> = (0..plan.connections)
            .map(|_| tokio::spawn(worker(plan.clone(), end, Arc::clone(&ramp))))
            .collect();
        println!("ready");
        let before = cpu_of(std::process::id())?;
        let start = Instant::now();
        let mut report = Report::default();
        for worker in workers {
            let part = worker.await.context("a worker panicked")?;
            report.requests += part.requests;
            report.failures += part.failures;
        }
        report.seconds = start.elapsed().as_secs_f64();
        report.cpu = cpu_of(std::process::id())? - before;
        anyhow::Ok(report)
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn worker(plan: Plan, end: Instant, ramp: Arc<Semaphore>) -> Report {
    let mut report = Report::default();
    while Instant::now() < end {
        if let Err(error) = connection(&plan, end, &ramp, &mut report).await {
            report.failures += 1;
            if report.failures == 1 {
                eprintln!("load: {error:#}");
            }
            if report.failures > 100 {
                break;
            }
        }
    }
    report
}

async fn connection(plan: &Plan, end: Instant, ramp: &Semaphore, report: &mut Report) -> Result<()> {
    let permit = ramp.acquire().await?;
    let mut stream = TcpStream::connect(plan.target).await.context("connect")?;
    stream.set_nodelay(true)?;
    let close = if plan.fresh { "Connection: close\r\n" } else { "" };
    let request = format!("GET {} HTTP/1.1\r\nHost: bench\r\n{close}\r\n", plan.path);
    let mut buffer = vec![0; ANSWER_MAX];
    loop {
        stream.write_all(request.as_bytes()).await.context("write")?;
        answer(&mut stream, &mut buffer).await?;
        report.requests += 1;
        if plan.idle {
            drop(permit);
            tokio::time::sleep_until(end.into()).await;
            return Ok(());
        }
        if plan.fresh || Instant::now() >= end {
            return Ok(());
        }
    }
}

/// Reads one answer with Content-Length.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).await.context("read")?;
        ensure!(read > 0, "closed after {have} bytes of the answer");
        have += read;
        let Some(head) = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).context("answer is not text")?.to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            bail!("answer {:?}", text.lines().next());
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("no content-length")?.trim().parse()?;
        if have >= head + 4 + length {
            return Ok(());
        }
    }
}
