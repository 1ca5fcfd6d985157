use super::*;
use crate::api::types::{AgentStatus, Problem};
use crate::publish::proxy::ProxyStatus;

#[test]
fn status_for_people() {
    let mut proxy = ProxyStatus::default();
    (proxy.pid, proxy.version, proxy.revision) = (13, "0.1.0".into(), 7);
    let status = Status {
        instance: "default".into(),
        version: "0.1.0".into(),
        node: "n1".into(),
        ready: true,
        enforcing: true,
        revision: 7,
        agent: AgentStatus { pid: 12 },
        proxy: None,
        proxies: vec![proxy],
        endpoints_ready: 2,
        endpoints: 3,
        services: 4,
        identities: 5,
        policies: 6,
        policies_refused: 1,
        problems: vec![Problem { object: "Pod a/b".into(), message: "x: unknown field".into() }],
    };
    let expected = "\
Instance default on node n1: ready, policy revision 7 (heddle 0.1.0, agent pid 12)
Proxy: pid 13, revision 7 (heddle 0.1.0)
Endpoints: 2 of 3 ready
Service ports: 4
Identities: 5
Policies: 6, 1 of them refused
Problems:
  Pod a/b: x: unknown field
";
    assert_eq!(status_text(&status), expected);
}
