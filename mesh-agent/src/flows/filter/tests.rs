use super::*;

fn flow() -> Flow {
    let from = Party {
        ip: "10.0.0.2".parse().ok(),
        port: 40_000,
        identity: 300,
        labels: vec!["k8s:app=web".into(), "k8s:io.kubernetes.pod.namespace=shop".into()],
        namespace: "shop".into(),
        name: "web".into(),
        ..Party::default()
    };
    let to = Party {
        ip: "fd00::7".parse().ok(),
        port: 80,
        identity: 2,
        labels: vec!["reserved:world".into()],
        service: "shop/api".into(),
        ..Party::default()
    };
    Flow { verdict: FlowVerdict::Dropped, source: from, destination: to, ..Flow::default() }
}

#[test]
fn ends() {
    let flow = flow();
    let rows = [
        ("shop/web", true, false),
        ("shop/api", false, true),
        ("shop/", true, true),
        ("other/", false, false),
        ("10.0.0.2", true, false),
        ("10.0.0.0/8", true, false),
        ("fd00::/16", false, true),
        ("app=web", true, false),
        ("k8s:app=web", true, false),
        ("app=api", false, false),
        ("identity:300", true, false),
        ("world", false, true),
        ("host", false, false),
    ];
    for (text, from, to) in rows {
        let filter: PartyFilter = text.parse().expect(text);
        assert_eq!((filter.matches(&flow.source), filter.matches(&flow.destination)), (from, to), "{text}");
    }
    for bad in ["", "/", "a/b/c", "identity:x", "10.0.0.0/99", "x y"] {
        let error = bad.parse::<PartyFilter>().expect_err(bad);
        assert!(error.contains("names no end of a flow"), "{error}");
    }
}

#[test]
fn verdicts_and_both_ends_together() {
    let flow = flow();
    let filter = |verdict: &str, from: &str| FlowFilter {
        verdict: Some(verdict.parse().expect("a verdict")),
        from: Some(from.parse().expect("an end")),
        to: None,
    };
    assert!(filter("dropped", "shop/web").matches(&flow));
    assert!(filter("DENIED", "shop/web").matches(&flow));
    assert!(!filter("forwarded", "shop/web").matches(&flow));
    assert!(!filter("dropped", "shop/api").matches(&flow));
    assert!(FlowFilter::default().matches(&flow));
    assert!("maybe".parse::<FlowVerdict>().expect_err("no verdict").contains("use forwarded"));
}
