use super::*;
use crate::flows::{L7, PolicyName};

#[test]
fn one_line_says_who_what_and_why() {
    let party =
        |pod: &str, port| Party { namespace: "shop".into(), name: pod.into(), port, ..Party::default() };
    let mut flow = Flow {
        time: "2026-11-22T09:00:01.123456789Z".into(),
        verdict: FlowVerdict::Dropped,
        direction: "egress".into(),
        protocol: "TCP".into(),
        source: party("web", 40_000),
        destination: Party { service: "shop/api".into(), ..party("api-1", 80) },
        reason: "HTTP_DENIED".into(),
        policy: Some(PolicyName {
            kind: "CiliumNetworkPolicy".into(),
            namespace: "shop".into(),
            name: "api".into(),
            rule: "spec.ingress[0]".into(),
        }),
        detail: "method \"POST\" does not match \"GET\"".into(),
        l7: Some(L7 {
            protocol: "HTTP/1.1".into(),
            method: "POST".into(),
            path: "/x".into(),
            host: "api".into(),
            status: 403,
            latency_ns: 0,
        }),
        ..Flow::default()
    };
    assert_eq!(
        flow_text(&flow),
        "09:00:01.123 DROPPED    TCP shop/web:40000 -> shop/api[shop/api-1]:80 HTTP/1.1 POST api/x -> 403 \
         (egress) HTTP_DENIED by CiliumNetworkPolicy shop/api spec.ingress[0]: method \"POST\" does not \
         match \"GET\""
    );
    flow.l7 = None;
    flow.policy = None;
    flow.detail = String::new();
    flow.destination = Party {
        ip: "1.2.3.4".parse().ok(),
        port: 443,
        labels: vec!["reserved:world".into()],
        ..Party::default()
    };
    assert!(flow_text(&flow).contains("-> world[1.2.3.4]:443 (egress) HTTP_DENIED"), "{}", flow_text(&flow));
}

#[test]
fn the_query_is_escaped() {
    let args = Args {
        follow: true,
        last: 5,
        verdict: Some(FlowVerdict::Dropped),
        from: Some("app=web".into()),
        to: None,
        output: OutputArgs { output: Output::Table },
    };
    assert_eq!(args.path(), "/v1/flows?last=5&follow=true&verdict=DROPPED&from=app%3Dweb");
}
