//! The documents that are made from the state in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use abi::DropReason;
use k8s_openapi::api::core::v1::Pod;
use policy::Snapshot;

use super::types::{
    AgentStatus, Endpoint, Endpoints, Identities, Identity, InForce, Policies, Policy, Problem, Service,
    Services, Status,
};
use crate::agent::Agent;
use crate::flows::label_list;
use crate::flows::view::protocol;
use crate::metrics::Gauges;
use crate::publish::Published;
use crate::sources::endpoints;

/// The cluster's DNS.
const DNS: &str = "kube-system/kube-dns";

/// How long it is told that a pod could not be attached. Runtimes that still want it try again within five
/// minutes (kubelet's longest back-off).
const FAILURE_TOLD: Duration = Duration::from_secs(330);

/// `GET /v1/status`.
pub(super) fn status(agent: &Agent) -> Status {
    let published = agent.published.borrow().clone();
    let snapshot = &published.view.snapshot;
    let proxies = agent.proxies.status();
    let now = Instant::now();
    let keeps_up = proxies
        .iter()
        .any(|p| p.revision != 0 && !p.late && p.refused.is_none() && p.silent_for(now).is_none());
    let mut problems: Vec<Problem> = published
        .problems
        .iter()
        .map(|message| Problem { object: "datapath".into(), message: message.clone() })
        .collect();
    problems.extend(proxy_problems(&published, &proxies, now));
    problems.extend(attachment_problems(agent));
    problems.extend(published.mark_problem.iter().map(|message| Problem {
        object: "run folder".into(),
        message: format!("{message}: an agent that follows this one counts a revision more"),
    }));
    let enforcing = published.revision != 0 && published.problems.is_empty() && keeps_up;
    let names_resolve = !agent.cluster_dns || has_ready_backend(snapshot, DNS);
    if published.revision != 0 && !names_resolve {
        let message = "no pod behind it is ready: names of services do not resolve";
        problems.push(Problem { object: format!("Service {DNS}"), message: message.into() });
    }
    let plugin = agent.plugin_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
    problems.extend(plugin.map(|message| Problem { object: "CNI plugin".into(), message }));
    problems.extend(agent.pods.problems());
    problems.extend(connection_problems(agent));
    // Before anything is in force the source knows it already.
    let node = match snapshot.node.is_empty() {
        true => agent.pods.subscribe().borrow().snapshot.node.clone(),
        false => snapshot.node.clone(),
    };
    let pods = own_pods(agent, &node);
    Status {
        instance: agent.instance.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        node,
        ready: enforcing && names_resolve,
        enforcing,
        revision: published.revision,
        agent: AgentStatus { pid: std::process::id() },
        proxy: proxies.last().cloned(),
        proxies,
        endpoints_ready: pods.iter().filter(|key| is_ready(&published, key)).count(),
        endpoints: pods.len(),
        services: published.view.compiled.services.len(),
        identities: published.view.compiled.identities.len(),
        policies: snapshot.policies.len(),
        policies_refused: snapshot.policies.values().filter(|p| p.refused.is_some()).count(),
        problems,
    }
}

/// `namespace/name` of this node's pods that have a network of their own: those of manifests and attached
/// ones.
fn own_pods(agent: &Agent, node: &str) -> BTreeSet<String> {
    let mut pods: BTreeSet<_> = agent.endpoints.lock().iter().map(|record| record.pod_key()).collect();
    let manifests = agent.pods.subscribe().borrow().pods.clone();
    let here = |pod: &Pod| endpoints::node_name(pod, node) == node && !endpoints::is_host_network(pod);
    pods.extend(manifests.iter().filter(|(_, pod)| here(pod)).map(|(key, _)| key.clone()));
    pods
}

/// Whether the pod is enforced, and ready in the state that is in force: its services have it.
fn is_ready(published: &Published, key: &str) -> bool {
    let pod = published.view.snapshot.endpoints.get(key);
    pod.is_some_and(|pod| pod.ready && published.endpoints.contains(&pod.id))
}

fn has_ready_backend(snapshot: &Snapshot, service: &str) -> bool {
    let service = snapshot.services.get(service);
    let mut backends = service.iter().flat_map(|service| &service.ports).flat_map(|port| &port.backends);
    backends.any(|backend| backend.ready)
}

/// Pods that a runtime wants to attach and could not.
fn attachment_problems(agent: &Agent) -> Vec<Problem> {
    let failures = agent.attach_failures.lock().unwrap_or_else(PoisonError::into_inner);
    let recent = failures.iter().filter(|(_, (when, _))| when.elapsed() < FAILURE_TOLD);
    let failures = recent.map(|(pod, (_, why))| Problem {
        object: format!("Pod {pod}"),
        message: format!("cannot be attached: {why}"),
    });
    failures.collect()
}

fn proxy_problems(
    published: &Published,
    proxies: &[crate::publish::proxy::ProxyStatus],
    now: Instant,
) -> Vec<Problem> {
    let problem = |message: String| Problem { object: "proxy".into(), message };
    if proxies.is_empty() {
        let message = "not connected: connections that need layer 7 are dropped unless it serves its last \
                       configuration; see `heddle proxy`";
        return vec![problem(message.into())];
    }
    let silent = proxies.iter().filter_map(|proxy| {
        let seconds = proxy.silent_for(now)?.as_secs();
        Some(format!(
            "pid {} has said nothing for {seconds} s: it is stopped or overloaded, and what needs layer 7 waits",
            proxy.pid
        ))
    });
    let behind = proxies.iter().filter(|proxy| proxy.refused.is_some() || proxy.late);
    let messages = behind.map(|proxy| match &proxy.refused {
        Some(why) => format!("pid {} refused a configuration: {why}", proxy.pid),
        None => format!("pid {} is at revision {}, behind {}", proxy.pid, proxy.revision, published.revision),
    });
    silent.chain(messages).map(problem).collect()
}

/// Who is near the limit of connections, or the whole node.
fn connection_problems(agent: &Agent) -> Vec<Problem> {
    let usage = agent.connections.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut problems = Vec::new();
    if usage.is_nearly_full() {
        let message = format!("{} connections of {}: new ones may be dropped", usage.total, usage.room);
        problems.push(Problem { object: "node".into(), message });
    }
    let names: BTreeMap<u32, String> =
        agent.endpoints.lock().iter().map(|record| (record.id, record.pod_key())).collect();
    problems.extend(usage.at_limit().map(|(endpoint, own, held)| {
        let object =
            names.get(&endpoint).map_or_else(|| format!("endpoint {endpoint}"), |n| format!("Pod {n}"));
        let which = if own { "opened by it" } else { "opened to it from other nodes" };
        let why = DropReason::ConnectionLimit.name();
        let message =
            format!("{held} connections {which}, as many as it may have: new ones are dropped ({why})");
        Problem { object, message }
    }));
    problems
}

/// `GET /v1/endpoints`.
pub(super) fn endpoints(agent: &Agent) -> Endpoints {
    let published = agent.published.borrow().clone();
    let view = &published.view;
    let records: Vec<_> = agent.endpoints.lock().iter().cloned().collect();
    let endpoints = records.into_iter().map(|record| {
        let pod = view.snapshot.endpoints.get(&record.pod_key()).filter(|pod| pod.id == record.id);
        let policy = view.compiled.endpoints.get(&record.id);
        let state = match (published.endpoints.contains(&record.id), pod) {
            (true, Some(pod)) if pod.ready => "ready",
            (true, _) => "not ready",
            (false, None) if record.veth.is_some() => "no manifest",
            (false, _) => "waiting",
        };
        Endpoint {
            id: record.id,
            namespace: record.namespace,
            name: record.pod,
            ready: state == "ready",
            state: state.into(),
            identity: pod.map_or(0, |pod| pod.identity),
            labels: pod.map(|pod| label_list(&pod.identity_labels)).unwrap_or_default(),
            addresses: record.addresses,
            interface: record.host_ifname,
            container_id: record.attachment.container_id,
            policy_entries: policy.map_or(0, |policy| policy.entries.len()),
            l7_rules: policy.map_or(0, |policy| policy.l7.iter().filter(|set| !set.http.is_empty()).count()),
        }
    });
    let mut endpoints: Vec<_> = endpoints.collect();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    Endpoints { endpoints }
}

/// `GET /v1/services`.
pub(super) fn services(agent: &Agent) -> Services {
    let published = agent.published.borrow().clone();
    let services = published.view.compiled.services.iter().map(|service| Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        port_name: service.port_name.clone(),
        address: service.vip,
        protocol: protocol(service.proto),
        l7: service.keep_vip,
        affinity_seconds: service.affinity_seconds,
        backends: service.backends.clone(),
    });
    Services { services: services.collect() }
}

/// `GET /v1/identities`.
pub(super) fn identities(agent: &Agent) -> Identities {
    let published = agent.published.borrow().clone();
    let mut pods: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (key, pod) in &published.view.snapshot.endpoints {
        pods.entry(pod.identity).or_default().push(key.clone());
    }
    let identities = published.view.compiled.identities.iter().map(|(id, labels)| Identity {
        id: *id,
        labels: label_list(labels),
        pods: pods.remove(id).unwrap_or_default(),
    });
    Identities { identities: identities.collect() }
}

/// `GET /v1/policies`.
pub(super) fn policies(agent: &Agent) -> Policies {
    let published = agent.published.borrow().clone();
    let last_valid = agent.pods.subscribe().borrow().last_valid.clone();
    let policies = published.view.snapshot.policies.iter().map(|(key, policy)| {
        let refuses = policy.rules.iter().any(|rule| rule.action == policy::model::Action::Refuse);
        let in_force = match &policy.refused {
            None => InForce::Newest,
            Some(_) if refuses => InForce::Denial,
            Some(_) if policy.rules.is_empty() => InForce::Nothing,
            Some(_) => InForce::LastValid,
        };
        let since = last_valid.get(key).filter(|since| in_force == InForce::LastValid && !since.is_empty());
        Policy {
            kind: policy.kind.clone(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            rules: policy.rules.len(),
            refused: policy.refused.clone(),
            in_force,
            since: since.cloned(),
        }
    });
    Policies { policies: policies.collect() }
}

/// The agent's part of `GET /metrics`.
pub(super) async fn metrics_page(agent: &Agent) -> String {
    let status = status(agent);
    let gauges = Gauges {
        revision: status.revision,
        endpoints: agent.published.borrow().endpoints.len(),
        identities: status.identities,
        policies: status.policies,
        policies_refused: status.policies_refused,
        services: status.services,
        proxies: status.proxies.len(),
        problems: status.problems.len(),
    };
    let counters = agent.kernel.counters().await.ok().and_then(Result::ok);
    agent.metrics.page(&gauges, counters.as_ref())
}
