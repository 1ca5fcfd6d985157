//! Counters: one set per worker, written by it alone, summed up when somebody asks.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::DropReason;
use http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::config::stream::Current;

/// A counter with one writer: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(count), Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Methods of RFC 9110 section 9 and RFC 5789; others are counted as `other`, so that clients cannot make up
/// label values.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const VERDICTS: [&str; 3] = ["forwarded", "denied", "failed"];
const PROTOCOLS: [&str; 3] = ["http1", "http2", "tcp"];
const CONNECTS: [&str; 2] = ["ok", "failed"];

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Forwarded = 0,
    /// By policy.
    Denied = 1,
    /// By a limit, the protocol, or the upstream.
    Failed = 2,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Http1 = 0,
    Http2 = 1,
    Tcp = 2,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Stats {
    requests: [[[Counter; STATUSES.len()]; METHODS.len()]; VERDICTS.len()],
    reasons: [Counter; 256],
    connections: [Counter; PROTOCOLS.len()],
    pub accepted: Counter,
    pub open: Counter,
    upstream_connects: [Counter; CONNECTS.len()],
    pub upstream_reused: Counter,
    pub flows_lost: Counter,
    /// HTTP/2 connections ended for frames that only make work.
    pub http2_floods: Counter,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            reasons: std::array::from_fn(|_| Counter::default()),
            connections: Default::default(),
            accepted: Counter::default(),
            open: Counter::default(),
            upstream_connects: Default::default(),
            upstream_reused: Counter::default(),
            flows_lost: Counter::default(),
            http2_floods: Counter::default(),
        }
    }
}

impl Stats {
    /// Counts a request.
    pub fn request(&self, fate: Fate, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::DELETE => 4,
            Method::OPTIONS => 5,
            Method::TRACE => 6,
            Method::PATCH => 7,
            _ => 8,
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUSES.len()) - 1;
        self.requests[fate as usize][method][class].add(1);
    }

    /// Counts a denied or failed request or connection.
    pub fn dropped(&self, reason: DropReason) {
        self.reasons[usize::from(reason as u8)].add(1);
    }

    /// Counts a connection whose protocol became known.
    pub fn carries(&self, what: Carries) {
        self.connections[what as usize].add(1);
    }

    /// Counts an attempt to reach a backend.
    pub fn upstream_connect(&self, succeeded: bool) {
        self.upstream_connects[usize::from(!succeeded)].add(1);
    }
}

/// All workers' counters and the configuration's revision, as Prometheus wants them.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub workers: Vec<Arc<Stats>>,
    pub current: Arc<Current>,
}

impl Metrics {
    /// The exposition in OpenMetrics text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("heddle_proxy");
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Name and sum of everything that is not zero, a line each.
    pub fn plain(&self) -> String {
        let mut text = String::new();
        for reason in DropReason::ALL {
            let count = self.sum(|stats| &stats.reasons[usize::from(*reason as u8)]);
            if count > 0 {
                let _ = writeln!(text, "dropped.{}: {count}", reason.name());
            }
        }
        for (protocol, name) in PROTOCOLS.iter().enumerate() {
            let count = self.sum(|stats| &stats.connections[protocol]);
            let _ = writeln!(text, "connections.{name}: {count}");
        }
        let _ = writeln!(text, "connections.accepted: {}", self.sum(|s| &s.accepted));
        let _ = writeln!(text, "connections.open: {}", self.sum(|s| &s.open));
        for (outcome, name) in CONNECTS.iter().enumerate() {
            let count = self.sum(|stats| &stats.upstream_connects[outcome]);
            let _ = writeln!(text, "upstream.connects.{name}: {count}");
        }
        let _ = writeln!(text, "upstream.reused: {}", self.sum(|s| &s.upstream_reused));
        let _ = writeln!(text, "flows.lost: {}", self.sum(|s| &s.flows_lost));
        let _ = writeln!(text, "config.revision: {}", self.current.load().revision);
        text
    }

    fn sum<'a>(&'a self, pick: impl Fn(&'a Stats) -> &'a Counter) -> u64 {
        self.workers.iter().fold(0, |sum, stats| sum.wrapping_add(pick(stats).load()))
    }

    fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> std::fmt::Result {
        ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// One counter with a label; only values that occurred, but for those of `always`.
    fn labelled<'a>(
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, label): (&str, &str, &str),
        values: impl Iterator<Item = (&'a str, u64)>,
    ) -> std::fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            let labels = [(label, value)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "Requests by what became of them, method and status class";
        let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (v, verdict) in VERDICTS.iter().enumerate() {
            for (m, method) in METHODS.iter().enumerate() {
                for (s, status) in STATUSES.iter().enumerate() {
                    let count = self.sum(|stats| &stats.requests[v][m][s]);
                    if count > 0 {
                        let labels = [("verdict", *verdict), ("method", *method), ("status", *status)];
                        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let encoder = &mut encoder;
        self.encode_requests(encoder)?;
        Self::labelled(
            encoder,
            ("drops", "Requests and connections denied or failed, by reason", "reason"),
            DropReason::ALL.iter().filter_map(|reason| {
                let count = self.sum(|stats| &stats.reasons[usize::from(*reason as u8)]);
                (count > 0).then_some((reason.name(), count))
            }),
        )?;
        Self::labelled(
            encoder,
            ("connections", "Client connections by what they carry", "protocol"),
            PROTOCOLS.iter().enumerate().map(|(i, p)| (*p, self.sum(|s| &s.connections[i]))),
        )?;
        Self::labelled(
            encoder,
            ("upstream_connects", "Attempts to reach a backend", "outcome"),
            CONNECTS.iter().enumerate().map(|(i, c)| (*c, self.sum(|s| &s.upstream_connects[i]))),
        )?;
        let reused = self.sum(|s| &s.upstream_reused);
        Self::counter(encoder, "upstream_reused", "Requests on a pooled connection", reused)?;
        let lost = self.sum(|s| &s.flows_lost);
        Self::counter(encoder, "flows_lost", "Access records that nobody took in time", lost)?;
        let floods = self.sum(|s| &s.http2_floods);
        let help = "HTTP/2 connections ended for too many control frames";
        Self::counter(encoder, "http2_floods", help, floods)?;
        let accepted = self.sum(|s| &s.accepted);
        Self::counter(encoder, "connections_accepted", "Client connections accepted", accepted)?;
        let open = self.sum(|s| &s.open);
        Self::gauge(encoder, "connections_open", "Client connections open now", open)?;
        let revision = u64::from(self.current.load().revision);
        Self::gauge(encoder, "config_revision", "Policy revision in force", revision)
    }
}
