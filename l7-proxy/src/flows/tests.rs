use std::time::Duration;

use abi::{Direction, DropReason};
use prost::Message;
use tokio::sync::mpsc;

use super::{FlowFields, FlowLog, FlowSource};
use crate::kernel::ConnectionRecord;
use crate::wire::{Flow, Flows, ProxyMessage, proxy_message::Kind};

fn source() -> FlowSource {
    let record = ConnectionRecord {
        src_identity: 300,
        dst_identity: 0,
        src_endpoint: 7,
        dst_endpoint: 0,
        vip: true,
        ingress: false,
        revision: 3,
    };
    let address = |text: &str| text.parse().expect("address");
    FlowSource::new(address("10.0.0.1:4000"), address("[fd00::1]:80"), record)
}

fn fields() -> FlowFields<'static> {
    FlowFields {
        backend: "10.0.0.2:8080",
        target: Some((301, 8)),
        reason: Some(DropReason::HttpDenied),
        detail: "path",
        rule: 5,
        direction: Some(Direction::Egress),
        protocol: "HTTP/1.1",
        method: "GET",
        path: "/x",
        host: "web",
        status: 403,
        latency: Duration::from_nanos(1234),
        revision: 4,
    }
}

fn decode(batch: super::FlowBatch) -> Flows {
    let frame = batch.into_frame();
    let (length, message) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().expect("four")) as usize, message.len());
    match ProxyMessage::decode(message).expect("decodes").kind {
        Some(Kind::Flows(flows)) => flows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn decodes_as_the_message_it_is() {
    let (sender, mut queue) = mpsc::channel(1);
    let log = FlowLog::new(sender);
    log.record(&source(), &fields());
    log.record(&source(), &FlowFields::default());
    log.flush();
    let flows = decode(queue.try_recv().expect("a batch"));
    assert_eq!((flows.flows.len(), flows.lost), (2, 0));
    assert!(flows.flows[0].time_unix_ns > 0);
    let expected = Flow {
        time_unix_ns: flows.flows[0].time_unix_ns,
        source: "10.0.0.1:4000".into(),
        destination: "[fd00::1]:80".into(),
        backend: "10.0.0.2:8080".into(),
        src_identity: 300,
        dst_identity: 301,
        src_endpoint: 7,
        dst_endpoint: 8,
        forwarded: false,
        reason: DropReason::HttpDenied as u32,
        detail: "path".into(),
        rule: 5,
        direction: 1,
        protocol: "HTTP/1.1".into(),
        method: "GET".into(),
        path: "/x".into(),
        host: "web".into(),
        status: 403,
        latency_ns: 1234,
        revision: 4,
    };
    assert_eq!(flows.flows[0], expected);
    assert!(flows.flows[1].forwarded);
}

#[test]
fn a_full_queue_loses_and_counts() {
    let (sender, mut queue) = mpsc::channel(1);
    let log = FlowLog::new(sender);
    for _ in 0..3 {
        log.record(&source(), &fields());
        log.flush();
    }
    assert_eq!(log.lost(), 2);
    assert_eq!(decode(queue.try_recv().expect("a batch")).lost, 0);
    log.record(&source(), &fields());
    log.flush();
    assert_eq!(decode(queue.try_recv().expect("a batch")).lost, 2);
}

#[test]
fn long_texts_are_cut() {
    let (sender, mut queue) = mpsc::channel(1);
    let log = FlowLog::new(sender);
    let path = "é".repeat(40_000);
    log.record(&source(), &FlowFields { path: &path, ..fields() });
    log.flush();
    let flows = decode(queue.try_recv().expect("a batch"));
    assert_eq!(flows.flows[0].path.len(), super::TEXT_MAX);
}
