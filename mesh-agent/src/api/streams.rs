//! Answers that go on: one JSON document a line until the client leaves.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::Body;
use super::types::NodePods;
use crate::dns::state::DnsState;
use crate::flows::filter::FlowFilter;
use crate::flows::{Flow, FlowLog};
use crate::publish::Published;
use crate::sources;

type Chunk = Result<Frame<Bytes>, Infallible>;

/// The last flows that the filter takes and, with `follow`, those to come. A follower that is too slow is
/// told how many it lost: `{"lost": N}`.
pub(super) fn flows(log: &FlowLog, filter: FlowFilter, last: usize, follow: bool) -> Body {
    let (flows, newer) = log.last(last, |flow| filter.matches(flow));
    let mut first = Vec::new();
    flows.iter().for_each(|flow| write_line(&mut first, &**flow));
    let newer = follow.then_some(newer);
    let state = (Some(first), newer, filter);
    let lines = stream::unfold(state, async |(first, newer, filter)| {
        if let Some(first) = first {
            return Some((chunk(first), (None, newer, filter)));
        }
        let mut newer = newer?;
        let line = loop {
            match newer.recv().await {
                Ok(flow) if filter.matches(&flow) => break line::<Flow>(&flow),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => break line(&serde_json::json!({ "lost": lost })),
                Err(RecvError::Closed) => return None,
            }
        };
        Some((chunk(line), (None, Some(newer), filter)))
    });
    StreamBody::new(lines).boxed()
}

/// What DNS needs to know: all of it now, and again whenever it changes.
pub(super) fn dns(mut published: watch::Receiver<Arc<Published>>) -> Body {
    published.mark_changed();
    let lines = stream::unfold((published, None), async |(mut published, sent)| {
        loop {
            published.changed().await.ok()?;
            let now = published.borrow_and_update().clone();
            if now.revision == 0 {
                continue;
            }
            let state = DnsState::from_snapshot(&now.view.snapshot);
            if sent.as_ref() != Some(&state) {
                return Some((chunk(line(&state)), (published, Some(state))));
            }
        }
    });
    StreamBody::new(lines).boxed()
}

/// The pods of this node by their manifests: all of them now, and again whenever that changes.
pub(super) fn pods(mut source: watch::Receiver<Arc<sources::Published>>) -> Body {
    source.mark_changed();
    let lines = stream::unfold((source, None), async |(mut source, sent)| {
        loop {
            source.changed().await.ok()?;
            let state = node_pods(&source.borrow_and_update());
            if sent.as_ref() != Some(&state) {
                return Some((chunk(line(&state)), (source, Some(state))));
            }
        }
    });
    StreamBody::new(lines).boxed()
}

fn node_pods(published: &sources::Published) -> NodePods {
    let snapshot = &published.snapshot;
    let here = |pod: &&Arc<Pod>| sources::endpoints::node_name(pod, &snapshot.node) == snapshot.node;
    let dns = snapshot.services.get("kube-system/kube-dns");
    NodePods {
        node: snapshot.node.clone(),
        node_addresses: snapshot.nodes.get(&snapshot.node).map(|n| n.addresses.clone()).unwrap_or_default(),
        dns_servers: dns.map(|service| service.cluster_ips.clone()).unwrap_or_default(),
        pods: published.pods.values().filter(here).cloned().collect(),
    }
}

fn chunk(bytes: Vec<u8>) -> Chunk {
    Ok(Frame::data(Bytes::from(bytes)))
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_line(&mut bytes, value);
    bytes
}

/// Our own types: JSON always takes them, and a vector every byte.
fn write_line<T: Serialize>(into: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *into, value).is_ok() {
        into.push(b'\n');
    }
}
