use tempfile::TempDir;

use super::*;

fn lines(files: &[(&str, &str)]) -> (bool, Vec<String>) {
    let folder = TempDir::new().expect("folder");
    for (name, text) in files {
        fs_write(folder.path(), name, text);
    }
    let report = check(&[folder.path().to_owned()]).expect("objects");
    let text = |p: &Problem| p.to_string().replace(&format!("{}/", folder.path().display()), "");
    (report.valid, report.problems.iter().map(text).collect())
}

fn fs_write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
";

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
{rules}"
    )
}

#[test]
fn remarks() {
    let check = |rules: &str, want: &[&str]| {
        let (valid, got) = lines(&[("a.yaml", &policy(rules)), ("pods.yaml", PODS)]);
        assert!(valid, "{got:?}");
        assert_eq!(got.len(), want.len(), "{rules}: {got:#?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.contains(want), "{got}, not {want}");
        }
    };
    let http = "toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{method: GET}]}}]";
    let plain = "toPorts: [{ports: [{port: \"80\"}]}]";
    check(&format!("  ingress:\n    - {http}\n"), &[]);
    check(
        &format!("  ingress:\n    - {http}\n    - {plain}\n"),
        &[
            "a.yaml:7:17: CiliumNetworkPolicy default/p: spec.ingress[0].toPorts[0]: its HTTP rules do not cover UDP (QUIC) on port 80, and spec.ingress[1]",
            "have no effect: spec.ingress[1]",
        ],
    );
    check(&format!("  ingress:\n    - {http}\n  egress:\n    - {plain}\n"), &[]);
    check(
        &format!("  enableDefaultDeny: {{ingress: false}}\n  ingress:\n    - {http}\n"),
        &["enableDefaultDeny is off"],
    );
    check(
        "  ingress:\n    - fromEndpoints: [{matchLabels: {app: wbe}}]\n",
        &[
            "a.yaml:7:7: CiliumNetworkPolicy default/p: spec.ingress[0]: has a peer selector that selects none of the 1 pods",
        ],
    );
    check("  ingress:\n    - fromEndpoints: [{matchLabels: {\"reserved:host\": \"\"}}]\n", &[]);
    check("  ingress:\n    - fromEndpoints: []\n", &["names nobody"]);
}

#[test]
fn a_selector_without_pods() {
    let text = policy("  ingress: [{}]\n");
    let other = PODS.replace("app: web", "app: wbe");
    let (valid, got) = lines(&[("a.yaml", &text), ("pods.yaml", &other)]);
    assert!(valid);
    assert_eq!(
        got,
        [
            "a.yaml:5:3: CiliumNetworkPolicy default/p: spec.endpointSelector: selects none of the 1 pods given"
        ]
    );
    assert_eq!(lines(&[("a.yaml", &text)]).1, [""; 0], "nothing can be told without pods");
}

#[test]
fn refusals() {
    let (valid, got) = lines(&[("a.yaml", &policy("  ingres: [{}]\n")), ("b.yaml", PODS)]);
    assert!(!valid);
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].starts_with("a.yaml:6:3: CiliumNetworkPolicy default/p: spec.ingres"), "{got:?}");
    let missing = check(&[PathBuf::from("/nowhere.yaml")]).expect("a report");
    assert!(!missing.valid && missing.problems[0].to_string().starts_with("/nowhere.yaml: No such file"));
    assert!(check(&[TempDir::new().expect("folder").path().to_owned()]).is_err(), "no objects");
}

/// Processor time that it takes to look at so many policies, each with two remarks.
fn lint_time(count: usize) -> std::time::Duration {
    let objects = (0..count).map(|i| {
        let manifest = serde_json::json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": format!("p{i}"), "namespace": "shop"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": format!("a{i}")}},
                "ingress": [
                    {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}],
                                  "rules": {"http": [{"method": "GET"}]}}]},
                    {"toPorts": [{"ports": [{"port": "80"}]}]},
                ],
            },
        });
        let policy = policy::model::parse("CiliumNetworkPolicy", &manifest).expect("a policy");
        let kind = crate::sources::object::Kind::CiliumNetworkPolicy;
        let key = ObjectKey { kind, namespace: "shop".into(), name: format!("p{i}") };
        (key, Object::Policy(Arc::new(policy)))
    });
    let objects: BTreeMap<ObjectKey, Object> = objects.collect();
    let clock =
        || std::time::Duration::from(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("time"));
    let begin = clock();
    assert_eq!(lint::lint(&objects).len(), 2 * count);
    clock() - begin
}

#[test]
fn thousands_of_policies_take_no_longer_each_than_a_few() {
    let (few, many) = (lint_time(250), lint_time(4000));
    // Sixteen times as many; each with each would take 256 times as long.
    assert!(many < few * 48, "{few:?} of processor time for 250 policies, {many:?} for 4000");
}
