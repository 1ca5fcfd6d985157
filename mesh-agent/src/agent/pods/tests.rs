use std::collections::BTreeMap;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::sources::{Options, Sources};

/// A source of its own, and pods in a cluster whose only manifest is `pod`.
fn cluster(pod: serde_json::Value) -> (TempDir, Sources, SourcePods) {
    let folder = TempDir::new().expect("folder");
    let options = Options {
        manifests: folder.path().to_owned(),
        state_dir: folder.path().join("state"),
        ..Options::default()
    };
    let sources = Sources::start(options).expect("starts");
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let pods = Arc::new(BTreeMap::from([("shop/web".to_owned(), Arc::new(pod))]));
    let published =
        watch::Sender::new(Arc::new(sources::Published { pods, ..Default::default() })).subscribe();
    let pods = SourcePods { registry: sources.registry(), published, managed: true };
    (folder, sources, pods)
}

fn pod(annotations: &serde_json::Value, port: &serde_json::Value) -> serde_json::Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "annotations": annotations},
        "spec": {"containers": [{"name": "main", "ports": [port]}]},
    })
}

#[test]
fn a_pod_is_known_by_its_uid() {
    let port = json!({"containerPort": 80});
    let (_folder, _sources, pods) = cluster(pod(&json!({}), &port));
    assert!(pods.known("shop", "web", "u1").is_ok());
    assert!(pods.known("shop", "web", "").is_ok(), "a runtime may not say");
    // One of the same name that came after it: labels may differ, so its rights would.
    let error = pods.known("shop", "web", "u2").expect_err("another").to_string();
    assert!(error.contains("shop/web (uid u2)"), "{error}");
    assert!(pods.known("shop", "other", "u1").is_err());
    // A static pod: kubelet's uid is an annotation of the object in the API.
    let (_folder, _sources, pods) = cluster(pod(&json!({"kubernetes.io/config.hash": "h1"}), &port));
    assert!(pods.known("shop", "web", "h1").is_ok());
}

#[test]
fn what_cannot_be_given_is_refused_by_name() {
    let bandwidth = json!({"kubernetes.io/egress-bandwidth": "1M"});
    for (annotations, port, what) in [
        (json!({}), json!({"containerPort": 80, "hostPort": 8080}), "hostPort"),
        (bandwidth, json!({"containerPort": 80}), "kubernetes.io/egress-bandwidth"),
    ] {
        let (_folder, _sources, pods) = cluster(pod(&annotations, &port));
        let error = pods.known("shop", "web", "u1").expect_err("refused").to_string();
        assert!(error.contains(what) && error.contains("shop/web"), "{error}");
    }
}
