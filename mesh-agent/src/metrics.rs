//! The agent's own metrics, and the page that Prometheus reads: ours, then the proxy's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use abi::{Direction, DropReason};
use bytes::Bytes;
use ebpf_redirect::Counters;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;

/// Where the proxy serves its own metrics.
pub const PROXY_METRICS_PORT: u16 = 15021;
/// How long the proxy has to answer; then the page goes out without its part.
const PROXY_ANSWER_MAX: Duration = Duration::from_secs(1);
/// Longest page that is taken from the proxy.
const PROXY_PAGE_MAX: usize = 16 << 20;

/// Metrics that the agent counts itself; those of the kernel are read when someone asks.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Access records that the agent could not take, and those that the proxy lost.
    pub flows_lost: Counter,
    /// Flows taken, of kernel and proxy.
    pub flows: Counter,
    /// Configurations put in force by this process.
    pub publications: Counter,
}

/// What is read when someone asks for the page.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub revision: u32,
    pub endpoints: usize,
    pub identities: usize,
    pub policies: usize,
    pub policies_refused: usize,
    pub services: usize,
    pub proxies: usize,
    pub problems: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: &'static str,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: &'static str,
}

impl Metrics {
    /// The agent's part of the page, in OpenMetrics text, without the end mark.
    pub fn page(&self, gauges: &Gauges, kernel: Option<&Counters>) -> String {
        let mut registry = Registry::with_prefix("heddle");
        let mut gauge = |name: &str, help: &str, value: usize| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value as i64);
            registry.register(name, help, gauge);
        };
        gauge("policy_revision", "Policy revision in force", gauges.revision as usize);
        gauge("endpoints", "Pods of this node whose policy is in the kernel", gauges.endpoints);
        gauge("identities", "Security identities in use", gauges.identities);
        gauge("policies", "Policy objects", gauges.policies);
        gauge("policies_refused", "Policy objects whose newest version was refused", gauges.policies_refused);
        gauge("services", "Service ports", gauges.services);
        gauge("proxies", "Proxies connected", gauges.proxies);
        gauge("problems", "What could not be put in force", gauges.problems);
        if let Some(kernel) = kernel {
            gauge("connections", "Live connections tracked in the kernel", kernel.connections as usize);
        }
        registry.register("flows", "Flows taken from kernel and proxy", self.flows.clone());
        registry.register("flows_lost", "Access records that nobody took in time", self.flows_lost.clone());
        registry.register("publications", "Configurations put in force", self.publications.clone());
        if let Some(kernel) = kernel {
            kernel_metrics(&mut registry, kernel);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text.trim_end().trim_end_matches("# EOF").to_owned()
    }
}

fn kernel_metrics(registry: &mut Registry, kernel: &Counters) {
    let drops = Family::<DropLabels, Counter>::default();
    for reason in DropReason::ALL {
        for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            let count = kernel.drops.get(&(*reason, direction)).copied().unwrap_or(0);
            drops.get_or_create(&DropLabels { reason: reason.name(), direction: name }).inc_by(count);
        }
    }
    registry.register("drops", "Packets dropped by the kernel programs", drops);
    let opened = Family::<PathLabels, Counter>::default();
    opened.get_or_create(&PathLabels { path: "direct" }).inc_by(kernel.new_direct);
    opened.get_or_create(&PathLabels { path: "proxy" }).inc_by(kernel.new_redirected);
    registry.register("connections_opened", "New connections by the way they took", opened);
    let mut counter = |name: &str, help: &str, value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter("events_lost", "Kernel events left out by rate limit or a full ring", kernel.events_left_out);
    counter("services_translated", "Connections translated to a backend at connect", kernel.translated);
}

/// The proxy's own page without its end mark; `None` if it does not answer in time.
pub async fn proxy_page() -> Option<String> {
    let fetch = async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_METRICS_PORT));
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request = http::Request::get("/metrics")
            .header(http::header::HOST, address.to_string())
            .body(http_body_util::Empty::<Bytes>::new())
            .ok()?;
        let exchange = async {
            let answer = sender.send_request(request).await.ok()?;
            let body = Limited::new(answer.into_body(), PROXY_PAGE_MAX).collect().await.ok()?;
            String::from_utf8(body.to_bytes().to_vec()).ok()
        };
        tokio::select! {
            page = exchange => page,
            _ = connection => None,
        }
    };
    let page = tokio::time::timeout(PROXY_ANSWER_MAX, fetch).await.ok()??;
    Some(page.trim_end().trim_end_matches("# EOF").to_owned())
}

/// The whole page: the agent's part, the proxy's if it answers, the end mark.
pub async fn whole_page(ours: String) -> String {
    format!("{ours}{}# EOF\n", proxy_page().await.unwrap_or_default())
}

#[cfg(test)]
mod tests;
