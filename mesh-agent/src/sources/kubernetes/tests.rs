//! The source against an API server that fails in the ways that real ones do. Whatever happens on the way,
//! the snapshot ends as the objects are.

mod server;

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use self::server::{Gone, Server};
use super::*;
use crate::sources::Published;

/// Longest wait for the source to notice something.
const WAIT_MAX: Duration = Duration::from_secs(60);

struct Fixture {
    server: Server,
    sources: Sources,
    state: TempDir,
}

fn pod(name: &str, app: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": app},
            "managedFields": [{"manager": "someone"}], "annotations": {"a": "long text"}},
        "spec": {"nodeName": "there", "containers": [{"name": "main", "image": "none",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn policy(port: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "generation": 1},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]},
    })
}

fn node() -> Value {
    json!({"metadata": {"name": "here"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}})
}

impl Fixture {
    /// A cluster with a node, and whatever `fill` adds.
    async fn new(fill: impl FnOnce(&Server)) -> Self {
        let server = Server::start().await;
        server.apply("nodes", node());
        fill(&server);
        Self::over(server, TempDir::new().expect("folder")).await
    }

    async fn over(server: Server, state: TempDir) -> Self {
        let url = format!("http://{}", server.address).parse().expect("url");
        let surrounding =
            Surrounding { node: "here".to_owned(), first_revision: 1, ..Surrounding::default() };
        let options = Options {
            access: Config::new(url),
            state_dir: state.path().to_owned(),
            surrounding,
            attached: Vec::new(),
        };
        let started = timeout(WAIT_MAX, Sources::follow_cluster(options)).await;
        Self { sources: started.expect("in time").expect("starts"), server, state }
    }

    /// Waits until the published state is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&Published) -> bool) -> Arc<Published> {
        let mut published = self.sources.subscribe();
        let waited =
            timeout(WAIT_MAX, published.wait_for(|now| is(now))).await.map(|now| now.map(|n| n.clone()));
        match waited {
            Ok(now) => now.expect("the source lives"),
            Err(_) => panic!("not seen: {what}; problems: {:#?}", texts(&self.sources.subscribe().borrow())),
        }
    }

    async fn until_pods(&self, pods: &[&str]) -> Arc<Published> {
        let is = |now: &Published| now.snapshot.endpoints.keys().map(String::as_str).eq(pods.iter().copied());
        self.until(&format!("{pods:?}"), is).await
    }
}

impl Fixture {
    /// Waits until the policy's status says so.
    async fn until_condition(&self, status: &str, message: &str) {
        let is = || {
            let policy = self.server.get("ciliumnetworkpolicies", "shop/web");
            let condition = &policy["status"]["conditions"][0];
            condition["status"] == status
                && condition["message"].as_str().is_some_and(|m| m.contains(message))
        };
        let waited = timeout(WAIT_MAX, async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:#}", self.server.get("ciliumnetworkpolicies", "shop/web"));
    }

    async fn until_event(&self) -> Value {
        let sent = timeout(WAIT_MAX, async {
            while self.server.reported().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        sent.await.expect("an Event in time");
        self.server.reported().remove(0)
    }
}

fn texts(published: &Published) -> Vec<String> {
    published.problems.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_become_the_snapshot_and_follow_changes() {
    let fixture = Fixture::new(|server| {
        server.apply("namespaces", json!({"metadata": {"name": "shop", "labels": {"team": "red"}}}));
        server.apply("pods", pod("web", "web", "10.244.1.2"));
        server.apply("services", json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"],
                "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}], "selector": {"app": "web"}}}));
        server.apply("ciliumnetworkpolicies", policy("8080"));
    })
    .await;
    let now = fixture.sources.subscribe().borrow().clone();
    let web = &now.snapshot.endpoints["shop/web"];
    assert!(web.ready && web.identity >= abi::IDENTITY_FIRST, "{web:?}");
    assert_eq!(web.identity_labels["k8s:io.cilium.k8s.namespace.labels.team"], "red");
    assert_eq!(now.snapshot.policies["CiliumNetworkPolicy/shop/web"].refused, None);
    // No EndpointSlice, no backend: the pods are no substitute where a controller makes slices.
    assert!(now.snapshot.services["shop/web"].ports[0].backends.is_empty());
    fixture.server.apply(
        "endpointslices",
        json!({"metadata": {"name": "web-1", "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.1.2"], "conditions": {"ready": true}}]}),
    );
    let backends = |now: &Published| now.snapshot.services["shop/web"].ports[0].backends.len();
    let now = fixture.until("a backend", |now| backends(now) == 1).await;
    assert_eq!(
        now.snapshot.services["shop/web"].cluster_ips,
        ["10.96.0.7".parse::<std::net::IpAddr>().expect("ip")]
    );
    fixture.server.delete("pods", "shop/web");
    fixture.server.delete("ciliumnetworkpolicies", "shop/web");
    let now = fixture.until_pods(&[]).await;
    fixture.until("no policy", |now| now.snapshot.policies.is_empty()).await;
    assert_eq!(texts(&now), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_goes_on_without_a_new_list() {
    let mut fixture = Fixture::new(|server| {
        (0..1200).for_each(|i| {
            server.apply("pods", pod(&format!("p{i:04}"), "web", &format!("10.9.{}.{}", i / 250, i % 250)))
        });
    })
    .await;
    assert_eq!(fixture.sources.subscribe().borrow().snapshot.endpoints.len(), 1200, "lists have pages");
    let lists = fixture.server.lists();
    fixture.server.stop().await;
    fixture.server.delete("pods", "shop/p0007");
    fixture.server.apply("pods", pod("new", "web", "10.8.0.1"));
    fixture.server.run().await;
    let caught_up = |now: &Published| {
        let pods = &now.snapshot.endpoints;
        pods.contains_key("shop/new") && !pods.contains_key("shop/p0007") && pods.len() == 1200
    };
    fixture.until("what changed meanwhile", caught_up).await;
    assert_eq!(fixture.server.lists(), lists);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_for_good_is_listed_again() {
    for gone in [Gone::Event, Gone::Status] {
        let mut fixture = Fixture::new(|server| {
            server.apply("pods", pod("old", "web", "10.244.1.2"));
            server.apply("pods", pod("stays", "web", "10.244.1.3"));
            server.apply("ciliumnetworkpolicies", policy("8080"));
        })
        .await;
        fixture.until_pods(&["shop/old", "shop/stays"]).await;
        fixture.server.stop().await;
        fixture.server.delete("pods", "shop/old");
        fixture.server.delete("ciliumnetworkpolicies", "shop/web");
        fixture.server.apply("pods", pod("new", "web", "10.244.1.4"));
        fixture.server.compact(gone);
        fixture.server.run().await;
        fixture.until_pods(&["shop/new", "shop/stays"]).await;
        fixture.until("no policy", |now| now.snapshot.policies.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_everything_stays_and_a_problem_says_so() {
    let mut fixture = Fixture::new(|server| {
        server.apply("pods", pod("web", "web", "10.244.1.2"));
        server.apply("ciliumnetworkpolicies", policy("8080"));
    })
    .await;
    fixture.server.stop().await;
    let told = |now: &Published| {
        texts(now)
            .iter()
            .any(|text| text.starts_with("API server: not answering") && text.contains("refused"))
    };
    let now = fixture.until("that it is away", told).await;
    assert!(now.snapshot.endpoints.contains_key("shop/web") && now.snapshot.policies.len() == 1);
    fixture.server.apply("pods", pod("late", "web", "10.244.1.3"));
    fixture.server.run().await;
    fixture.until_pods(&["shop/late", "shop/web"]).await;
    fixture.until("that it is back", |now| now.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_ends_in_the_newest_state() {
    let fixture = Fixture::new(|_| {}).await;
    let before = fixture.sources.subscribe().borrow().snapshot.revision;
    for i in 0..5_000u32 {
        let ip = format!("10.7.{}.{}", i % 40 / 10, i % 200);
        fixture.server.apply("pods", pod(&format!("p{}", i % 50), "web", &ip));
    }
    for i in 0..49 {
        fixture.server.delete("pods", &format!("shop/p{i}"));
    }
    fixture.server.apply("pods", pod("p49", "last", "10.7.9.9"));
    let last = |now: &Published| {
        let pods = &now.snapshot.endpoints;
        pods.len() == 1 && pods.get("shop/p49").is_some_and(|p| p.labels["app"] == "last")
    };
    let now = fixture.until("the last one alone", last).await;
    let revisions = now.snapshot.revision - before;
    assert!(revisions < 2_500, "{revisions} snapshots of 5050 changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_cilium_kinds_works_and_says_what_is_missing() {
    let server = Server::start().await;
    server.apply("nodes", node());
    server.apply("pods", pod("web", "web", "10.244.1.2"));
    server.set_absent(&["ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"]);
    let fixture = Fixture::over(server, TempDir::new().expect("folder")).await;
    fixture.until_pods(&["shop/web"]).await;
    let missing = |now: &Published| {
        texts(now).iter().any(|text| text.contains("ciliumnetworkpolicies.cilium.io is missing"))
    };
    fixture.until("what is missing", missing).await;
    fixture.server.set_absent(&[]);
    fixture.server.apply("ciliumnetworkpolicies", policy("8080"));
    fixture.until("the policy", |now| now.snapshot.policies.len() == 1 && now.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_policy_leaves_its_last_valid_version_in_force() {
    let fixture = Fixture::new(|server| server.apply("ciliumnetworkpolicies", policy("8080"))).await;
    let revision = fixture.sources.subscribe().borrow().snapshot.revision;
    fixture.until_condition("True", "in force").await;
    let mut reported = policy("8080");
    reported["status"] = json!({"conditions": [{"type": "Valid", "status": "True"}]});
    fixture.server.apply("ciliumnetworkpolicies", reported);
    fixture.server.apply("ciliumnetworkpolicies", policy("http:bad"));
    let refused = |now: &Published| now.snapshot.policies["CiliumNetworkPolicy/shop/web"].refused.is_some();
    let now = fixture.until("the refusal", refused).await;
    assert_eq!(now.snapshot.revision, revision + 1, "a change of status is none of the policy");
    let rules = &now.snapshot.policies["CiliumNetworkPolicy/shop/web"].rules;
    assert_eq!(rules[0].action, policy::model::Action::Allow, "{rules:?}");
    assert!(texts(&now)[0].contains("its last valid version stays in force"), "{:?}", texts(&now));
    fixture.until_condition("False", "(its last valid version stays in force)").await;
    let event = fixture.until_event().await;
    assert_eq!((&event["reason"], &event["involvedObject"]["name"]), (&json!("Refused"), &json!("web")));
    // A new process has heard of the valid one from the last.
    let Fixture { server, sources, state } = fixture;
    drop(sources);
    let fixture = Fixture::over(server, state).await;
    let now = fixture.sources.subscribe().borrow().clone();
    let rules = &now.snapshot.policies["CiliumNetworkPolicy/shop/web"].rules;
    assert_eq!(rules[0].action, policy::model::Action::Allow, "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_goes_with_the_newer_pod_before_the_older_one_is_gone() {
    let made = |name: &str, time: &str| {
        let mut pod = pod(name, "web", "10.244.1.2");
        pod["metadata"]["creationTimestamp"] = time.into();
        pod
    };
    let fixture = Fixture::new(|server| server.apply("pods", made("a", "2026-11-22T10:00:00Z"))).await;
    fixture.until_pods(&["shop/a"]).await;
    fixture.server.apply("pods", made("b", "2026-11-22T11:00:00Z"));
    fixture.until_pods(&["shop/b"]).await;
    // One that ends has lost its address, however new it is.
    let mut ending = made("c", "2026-11-22T12:00:00Z");
    ending["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:30Z".into();
    fixture.server.apply("pods", ending);
    fixture.server.apply("pods", pod("d", "web", "10.244.1.9"));
    fixture.until_pods(&["shop/b", "shop/d"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_the_middle_of_the_stream_loses_nothing() {
    let mut fixture = Fixture::new(|_| {}).await;
    for i in 0..5 {
        fixture.server.apply("pods", pod(&format!("p{i}"), "web", &format!("10.244.1.{}", i + 2)));
        fixture.server.break_watches().await;
    }
    fixture.until_pods(&["shop/p0", "shop/p1", "shop/p2", "shop/p3", "shop/p4"]).await;
}
