use super::*;

fn numbered(revision: u32) -> Flow {
    Flow { revision, ..Flow::default() }
}

#[tokio::test]
async fn the_ring_keeps_the_newest_and_followers_miss_none() {
    let log = FlowLog::default();
    for number in 0..RING_MAX as u32 + 10 {
        log.push(numbered(number));
    }
    let (flows, mut follow) = log.last(usize::MAX, |_| true);
    assert_eq!(flows.len(), RING_MAX);
    assert_eq!(flows[0].revision, 10);
    let (even, _) = log.last(3, |flow| flow.revision % 2 == 0);
    let end = RING_MAX as u32 + 8;
    assert_eq!(even.iter().map(|f| f.revision).collect::<Vec<_>>(), [end - 4, end - 2, end]);
    log.push(numbered(77));
    assert_eq!(follow.recv().await.expect("a flow").revision, 77);
}

#[test]
fn json_is_stable() {
    let mut flow = numbered(4);
    flow.verdict = FlowVerdict::Dropped;
    flow.icmp = Some(Icmp { kind: 8, code: 0 });
    let json = serde_json::to_value(&flow).expect("JSON");
    assert_eq!(json["verdict"], "DROPPED");
    assert_eq!(json["icmp"]["type"], 8);
    assert_eq!(json["observedBy"], "kernel");
    assert!(json.get("l7").is_none());
    assert_eq!(serde_json::from_value::<Flow>(json).expect("the same"), flow);
}

#[test]
fn labels_without_value_stand_alone() {
    let labels = Labels::from([("reserved:world".into(), String::new()), ("k8s:a".into(), "b".into())]);
    assert_eq!(label_list(&labels), ["k8s:a=b", "reserved:world"]);
}
