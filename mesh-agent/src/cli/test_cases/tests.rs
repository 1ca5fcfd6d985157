use super::*;

const CASE: &str = "name: one
endpoints:
  - {name: client, labels: {app: client}}
  - {name: server, labels: {app: server}}
policies:
  - apiVersion: cilium.io/v2
    kind: CiliumNetworkPolicy
    metadata: {name: p, namespace: default}
    spec:
      endpointSelector: {matchLabels: {app: server}}
      ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]
queries:
  - {from: client, to: server, port: 80, want: allow}
  - {from: client, to: server, port: 81, want: deny}
";

#[test]
fn cases_pass_and_fail() {
    let all = cases_of(Path::new("f"), &format!("{CASE}---\n{}", CASE.replace("want: deny", "want: allow")));
    assert!(all[0].passed && !all[1].passed);
    assert_eq!((all[0].line, all[1].line), (1, 16));
    let query = &all[1].queries[1];
    assert!(query.difference().ends_with(": want allow, got deny"), "{}", query.difference());
    assert!(query.why.iter().any(|why| why.contains("ingress of default/server: deny")), "{:?}", query.why);
}

#[test]
fn what_is_no_case_fails() {
    let check = |text: &str, line: u32, reason: &str| {
        let all = cases_of(Path::new("f"), text);
        let last = all.last().expect("a case");
        assert!(!last.passed, "{text}");
        let error = last.error.as_deref().unwrap_or_default();
        assert!(last.line == line && error.contains(reason), "{text}: line {}: {error}", last.line);
    };
    check("", 0, "no cases");
    check("name: [\n", 1, "not valid YAML");
    check(&CASE.replace("port: 80,", "prt: 80,"), 13, "prt");
    check(&CASE.replace("port: 80,", "port: 80, protocol: QUIC,"), 13, "QUIC");
}

#[test]
fn a_query_that_cannot_be_answered_fails() {
    let all = cases_of(Path::new("f"), &CASE.replace("to: server, port: 81", "to: sever, port: 81"));
    assert!(!all[0].passed);
    assert_eq!(all[0].queries[1].got, "error");
}
