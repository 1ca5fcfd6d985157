//! What is not valid is refused with a message, and what was in force stays.

use super::*;

#[test]
fn last_valid_version_stays() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    let valid = policy(&f.now(), "a").expect("a");
    let check = |text: &str, parts: &[&str]| {
        f.write("a.yaml", text);
        let now = f.until(&format!("{parts:?}"), |p| tells(p, parts));
        let in_force = policy(&now, "a").expect("still there");
        assert_eq!(in_force.rules, valid.rules, "{parts:?}");
        in_force.refused.clone()
    };
    let stays = "its last valid version stays in force";
    let refused = check(&allow("a", "\"70000\""), &["a.yaml:12:15", "default/a", "ports[0].port", stays]);
    assert!(refused.expect("refused").contains("spec.ingress[0].toPorts[0].ports[0].port"));
    check(&allow("a", "\"80\"").replace("toPorts", "toPort"), &["a.yaml:10:7", "toPort", stays]);
    check(
        &format!("{}          rules: {{http: [{{path: \"/a(b\"}}]}}\n", allow("a", "\"80\"")),
        &["a.yaml:14:", "http[0].path", stays],
    );
    check(&allow("a", "\"80\" \""), &["a.yaml:1", "default/a", "not valid YAML", stays]);
    check(
        &format!("spec: [\n{}", allow("a", "\"80\"")),
        &["a.yaml:", "not valid YAML", "last valid version of"],
    );
    check(&allow("a", "\"80\"").replace("name: a", "nam: a"), &["metadata.name", "missing"]);
    check(&allow("a", "\"80\"").replace("Policy\n", "Polcy\n"), &["no policy of kind CiliumNetworkPolcy"]);
    check("- 1\n", &["a.yaml:1:", "not an object"]);
    f.write("a.yaml", &allow("a", "\"80\""));
    let now = f.until("healed", |p| p.problems.is_empty());
    assert_eq!(policy(&now, "a").expect("a"), valid);
}

#[test]
fn never_valid_denies() {
    let broken = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c}\nspec: [\n";
    let f = Fixture::new(&[
        ("a.yaml", &allow("a", "\"70000\"")),
        ("b.yaml", &allow("b", "\"80\"").replace("v2", "v3")),
        ("c.yaml", broken),
    ]);
    let now = f.now();
    for name in ["a", "b", "c"] {
        let policy = policy(&now, name).expect("stands for the refused one");
        assert!(policy.refused.is_some(), "{name}");
        assert!(policy.rules.iter().all(|r| r.action == policy::model::Action::Refuse), "{name}");
        assert!(!policy.rules.is_empty(), "{name}");
        assert!(tells(&now, &[&format!("{name}.yaml:"), "denied"]), "{name}: {:?}", texts(&now));
    }
}

#[test]
fn a_policy_without_a_name_denies() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\"").replace("name:", "nme:"))]);
    let now = f.now();
    assert_eq!(now.snapshot.policies.keys().collect::<Vec<_>>(), ["CiliumNetworkPolicy/default/(a.yaml:1)"]);
    assert!(now.snapshot.policies.values().all(|p| !p.rules.is_empty()));
}

#[test]
fn a_refused_policy_keeps_its_last_valid_version_over_a_restart() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    let valid = policy(&f.now(), "a").expect("a");
    f.write("a.yaml", &allow("a", "\"70000\""));
    f.until("refused", |p| !p.problems.is_empty());
    let f = f.restarted();
    let now = f.now();
    assert_eq!(policy(&now, "a").expect("a").rules, valid.rules);
    assert!(tells(&now, &["its last valid version stays in force"]), "{:?}", texts(&now));
    f.write("a.yaml", "spec: [");
    f.until("unreadable", |p| tells(p, &["not valid YAML"]));
    let f = f.restarted();
    assert_eq!(policy(&f.now(), "a").expect("a").rules, valid.rules);
    f.remove("a.yaml");
    f.until("gone", |p| policy(p, "a").is_none());
}

#[test]
fn of_two_objects_of_one_name_the_first_counts() {
    let f = Fixture::new(&[("b.yaml", &allow("a", "\"80\""))]);
    let eighty = policy(&f.now(), "a").expect("a");
    f.write("c.yaml", &allow("a", "\"81\""));
    let now = f.until("refused", |p| tells(p, &["c.yaml:1:1", "default/a", "b.yaml:1 already"]));
    assert_eq!(policy(&now, "a"), Some(eighty.clone()));
    f.write("a.yaml", &format!("{}---\n{}", allow("a", "\"82\""), allow("a", "\"83\"")));
    let now = f.until("refused", |p| p.problems.len() == 3);
    assert!(tells(&now, &["a.yaml:15:", "a.yaml:1 already"]), "{:?}", texts(&now));
    assert!(tells(&now, &["b.yaml:1:1", "a.yaml:1 already"]), "{:?}", texts(&now));
    assert_ne!(policy(&now, "a"), Some(eighty.clone()));
    f.remove("a.yaml");
    f.until("b counts again", |p| policy(p, "a") == Some(eighty.clone()) && p.problems.len() == 1);
    f.remove("b.yaml");
    f.until("c counts", |p| policy(p, "a").is_some_and(|a| a != eighty) && p.problems.is_empty());
}

#[test]
fn a_broken_document_leaves_the_others_of_its_file() {
    let three = |b: &str| format!("{}---\n{b}---\n{}", allow("a", "\"80\""), allow("c", "\"80\""));
    let f = Fixture::new(&[("f.yaml", &three(&allow("b", "\"80\"")))]);
    f.write("f.yaml", &three("x: [\n"));
    let now = f.until("broken", |p| tells(p, &["f.yaml:1", "not valid YAML", "default/b stays in force"]));
    assert_eq!(now.snapshot.policies.len(), 3);
    // Found again elsewhere, the held one yields.
    f.write("g.yaml", &allow("b", "\"81\""));
    let now = f.until("b moved", |p| policy(p, "b") != policy(&now, "b"));
    assert_eq!(now.snapshot.policies.len(), 3);
    // A part that reads well and lacks an object has lost it.
    f.write("f.yaml", &allow("a", "\"80\""));
    f.until("c is gone", |p| policy(p, "c").is_none() && p.problems.is_empty());
}

#[test]
fn an_unreadable_file_keeps_its_objects() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    fs::write(f.path("a.yaml"), b"\xff\xfe").expect("written");
    let now = f.until("unreadable", |p| tells(p, &["a.yaml", "UTF-8", "default/a stays in force"]));
    assert!(policy(&now, "a").expect("a").refused.is_some());
    f.write("a.yaml", &allow("a", "\"80\""));
    f.until("healed", |p| p.problems.is_empty() && policy(p, "a").is_some_and(|a| a.refused.is_none()));
}

#[test]
fn other_kinds_are_refused_with_a_field() {
    let check = |text: String, parts: &[&str]| {
        let f = Fixture::new(&[("a.yaml", &text)]);
        assert!(tells(&f.now(), parts), "{parts:?}: {:#?}", texts(&f.now()));
    };
    let typo = pod("p", "web").replace("containerPort: 8080", "containerPrt: 8080");
    check(typo, &["a.yaml:9:28", "Pod default/p", "containers[0].ports[0].containerPrt", "unknown field"]);
    check(
        pod("p", "web").replace("8080", "\"x\""),
        &["a.yaml:9:", "spec.containers[0].ports[0].containerPort"],
    );
    check(pod("p", "web").replace("8080", "0"), &["ports[0].containerPort", "1..65535"]);
    check(pod("p", "'a b'"), &["a.yaml:3:", "metadata.labels.app", "label value"]);
    check(pod("P", "a"), &["metadata.name", "valid name"]);
    check(service("s", "a", "  typ: x\n"), &["a.yaml:7:3", "spec.typ", "unknown field"]);
    check(service("s", "a", "  clusterIP: 10.0.0\n"), &["spec.clusterIP", "not an IP"]);
    check(service("s", "a", "  clusterIP: 127.0.0.1\n"), &["spec.clusterIP", "loopback"]);
    check(service("s", "a", "").replace("80,", "0,"), &["spec.ports[0].port"]);
    check(service("s", "a", "  type: NodePort\n"), &["spec.type", "not served from outside"]);
    check("kind: Pod\nmetadata: {name: x}\n".into(), &["apiVersion"]);
    check("apiVersion: v1\nkind: Pod\n".into(), &["metadata", "missing"]);
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: 1}\n".into(), &["metadata.namespace"]);
    let network =
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {}}\n";
    check(network.into(), &["apiVersion", "networking.k8s.io/v1", "denied"]);
    let calico = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: x}\n";
    check(calico.into(), &["NetworkPolicy x", "NOT enforced"]);
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\nendpoints: [{addresses: [\"fd00::1\"]}]\n";
    check(slice.into(), &["a.yaml:5:26", "endpoints[0].addresses[0]", "not an IPv4"]);
}
