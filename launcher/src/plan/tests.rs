use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    let metadata = json!({"name": "web-1", "namespace": "shop", "labels": {"app": "web"}});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
        .unwrap()
}

/// A pod of one container with these fields besides its name and command.
fn with(container: Value) -> Pod {
    let mut all = json!({"name": "c", "command": ["sleep"]});
    all.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    pod(json!({"containers": [all]}))
}

fn errors(pod: &Pod) -> Vec<String> {
    match PodPlan::of(pod) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_its_path() {
    let table = [
        (pod(json!({"containers": []})), "spec.containers: "),
        (pod(json!({"containers": [{"name": "c", "image": "nginx"}]})), "spec.containers[0].command: "),
        (pod(json!({"containers": [{"name": "C", "command": ["x"]}]})), "spec.containers[].name: "),
        (
            pod(json!({"containers": [{"name": "c", "command": ["x"]}], "volumes": [{"name": "v"}]})),
            "spec.volumes: ",
        ),
        (
            pod(json!({"containers": [{"name": "c", "command": ["x"]}], "restartPolicy": "Sometimes"})),
            "spec.restartPolicy: ",
        ),
        (
            pod(json!({"containers": [{"name": "c", "command": ["x"]}], "hostAliases": [{"ip": "x"}]})),
            "spec.hostAliases[0].ip: ",
        ),
        (
            pod(json!({"initContainers": [{"name": "i", "command": ["x"], "restartPolicy": "Always"}],
                       "containers": [{"name": "c", "command": ["x"]}]})),
            "spec.initContainers[0].restartPolicy: ",
        ),
        (
            with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            "spec.containers[0].volumeMounts: ",
        ),
        (with(json!({"envFrom": [{"prefix": "x"}]})), "spec.containers[0].envFrom: "),
        (
            with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})),
            "spec.containers[0].lifecycle: ",
        ),
        (
            with(json!({"securityContext": {"privileged": true}})),
            "spec.containers[0].securityContext.privileged: ",
        ),
        (
            with(json!({"securityContext": {"capabilities": {"add": ["FLY"]}}})),
            "spec.containers[0].securityContext.capabilities: ",
        ),
        (with(json!({"ports": [{"containerPort": 70000}]})), "spec.containers[0].ports[0].containerPort: "),
        (
            with(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k", "name": "s"}}}]})),
            "spec.containers[0].env[0].valueFrom: ",
        ),
        (
            with(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: ",
        ),
        (
            with(json!({"readinessProbe": {"httpGet": {"port": "http"}}})),
            "spec.containers[0].readinessProbe.httpGet.port: ",
        ),
        (with(json!({"livenessProbe": {"grpc": {"port": 1}}})), "spec.containers[0].livenessProbe.grpc: "),
        (with(json!({"livenessProbe": {}})), "spec.containers[0].livenessProbe: "),
        (
            with(json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: ",
        ),
        (
            with(json!({"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 0}})),
            "spec.containers[0].readinessProbe.periodSeconds: ",
        ),
    ];
    for (pod, path) in table {
        let errors = errors(&pod);
        assert_eq!(errors.len(), 1, "{errors:?} should be just {path:?}");
        assert!(errors[0].starts_with(path), "{errors:?} should begin with {path:?}");
    }
}

#[test]
fn names_cannot_leave_their_folder() {
    for name in ["", "..", "a/b", "A", "-a", "a_b"] {
        let mut bad = with(json!({}));
        bad.metadata.name = Some(name.to_owned());
        assert!(errors(&bad)[0].starts_with("metadata.name: "), "{name:?}");
    }
}

#[test]
fn what_makes_no_difference_is_a_warning() {
    let plan = PodPlan::of(&pod(json!({
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "command": ["x"], "image": "i", "resources": {"limits": {"cpu": "1"}}}],
        "volumes": [],
    })))
    .unwrap();
    assert_eq!(
        plan.warnings,
        ["spec.tolerations has no effect here", "spec.containers[0].resources has no effect here"]
    );
}

#[test]
fn probes_have_the_defaults_of_kubernetes() {
    let plan = PodPlan::of(&with(json!({
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "http", "path": "ready"}},
        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 2, "failureThreshold": 1},
    })))
    .unwrap();
    let readiness = plan.containers[0].readiness.clone().unwrap();
    let action = Action::Http { host: None, port: 8080, path: "/ready".into(), headers: vec![] };
    assert_eq!(readiness.action, action);
    assert_eq!((readiness.period, readiness.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!((readiness.failures, readiness.successes), (3, 1));
    let liveness = plan.containers[0].liveness.clone().unwrap();
    assert_eq!((liveness.period, liveness.failures), (Duration::from_secs(2), 1));
}

#[test]
fn references_expand_as_in_kubernetes() {
    let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
    for (text, want) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(A)"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$$", "$"),
        ("", ""),
        ("ü$(A)ü", "ü1ü"),
    ] {
        assert_eq!(expand(text, &variables), want, "{text:?}");
    }
}

#[test]
fn variables_see_those_before_them() {
    let plan = PodPlan::of(&with(json!({"env": [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "URL", "value": "http://$(IP)/$(APP)/$(LATER)"},
        {"name": "LATER", "value": "x"},
    ]})))
    .unwrap();
    let addresses = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let addresses = Addresses { pod: &addresses, host: &[] };
    let all = resolve(&plan.containers[0].env, addresses, BTreeMap::new());
    assert_eq!(all["URL"], "http://10.0.0.1/web/$(LATER)");
}

#[test]
fn capabilities_are_those_of_container_runtimes() {
    let of = |security: Value| {
        PodPlan::of(&with(json!({"securityContext": security}))).unwrap().containers[0].capabilities.clone()
    };
    assert_eq!(of(json!({})), CAPABILITIES);
    assert_eq!(of(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}})), ["CAP_NET_RAW"]);
    assert!(!of(json!({"capabilities": {"drop": ["CAP_CHOWN"]}})).contains(&"CAP_CHOWN".to_owned()));
    assert!(of(json!({"capabilities": {"add": ["NET_ADMIN"]}})).contains(&"CAP_NET_ADMIN".to_owned()));
}

#[test]
fn labels_alone_are_no_reason_to_restart() {
    let before = PodPlan::of(&with(json!({}))).unwrap();
    let mut relabelled = with(json!({}));
    relabelled.metadata.labels = None;
    assert_eq!(PodPlan::of(&relabelled).unwrap(), before);
    assert_ne!(PodPlan::of(&with(json!({"args": ["1"]}))).unwrap(), before);
}

#[test]
fn restarts_back_off_as_kubelet_does() {
    let backoff = crate::Backoff::default();
    let pauses: Vec<u64> = (0..8).map(|n| backoff.pause(n).as_secs()).collect();
    assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(backoff.pause(4_000_000_000).as_secs(), 300);
}

#[test]
fn the_dns_server_is_a_pod_that_we_can_run() {
    let addresses = ["10.96.0.10", "fd00:10:96::10"].map(|ip| ip.parse().unwrap());
    let heddle = std::path::Path::new("/usr/bin/heddle");
    let all =
        crate::dns::manifests(heddle, "x", &addresses, "cluster.local", &["192.0.2.53".parse().unwrap()]);
    let pod: Pod = serde_json::from_value(all[2].clone()).unwrap();
    let plan = PodPlan::of(&pod).unwrap();
    assert!(plan.agent_api && plan.warnings.is_empty());
    let words = "/usr/bin/heddle --instance x dns --cluster-domain cluster.local --upstream 192.0.2.53";
    assert_eq!(plan.containers[0].words.join(" "), words);
}
