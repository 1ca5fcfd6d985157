use super::*;

#[test]
fn the_page_names_every_reason_and_has_no_end_mark() {
    let kernel = Counters {
        drops: [((DropReason::PolicyDenied, abi::Direction::Egress), 7)].into(),
        events_left_out: 3,
        new_redirected: 2,
        ..Counters::default()
    };
    let gauges = Gauges { revision: 12, endpoints: 4, ..Gauges::default() };
    let page = Metrics::default().page(&gauges, Some(&kernel));
    for line in [
        "heddle_policy_revision 12",
        "heddle_endpoints 4",
        "heddle_drops_total{reason=\"POLICY_DENIED\",direction=\"egress\"} 7",
        "heddle_drops_total{reason=\"NO_POLICY\",direction=\"ingress\"} 0",
        "heddle_events_lost_total 3",
        "heddle_connections_opened_total{path=\"proxy\"} 2",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is missing in\n{page}");
    }
    assert!(!page.contains("# EOF"));
}
