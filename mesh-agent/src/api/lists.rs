//! The documents that are made from the state in force.

use std::collections::BTreeMap;

use super::types::{
    AgentStatus, Endpoint, Endpoints, Identities, Identity, Policies, Policy, Problem, Service, Services,
    Status,
};
use crate::agent::Agent;
use crate::flows::label_list;
use crate::flows::view::protocol;
use crate::metrics::Gauges;

/// `GET /v1/status`.
pub(super) fn status(agent: &Agent) -> Status {
    let published = agent.published.borrow().clone();
    let snapshot = &published.view.snapshot;
    let proxies = agent.proxies.status();
    let keeps_up = proxies.iter().any(|p| p.revision != 0 && !p.late && p.refused.is_none());
    let mut problems: Vec<Problem> = published
        .problems
        .iter()
        .map(|message| Problem { object: "datapath".into(), message: message.clone() })
        .collect();
    problems.extend(proxy_problems(&published, &proxies));
    problems.extend(agent.pods.problems());
    Status {
        instance: agent.instance.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        node: snapshot.node.clone(),
        ready: published.revision != 0 && published.problems.is_empty() && keeps_up,
        revision: published.revision,
        agent: AgentStatus { pid: std::process::id() },
        proxy: proxies.last().cloned(),
        proxies,
        endpoints_ready: published.endpoints.len(),
        endpoints: agent.endpoints.lock().iter().count(),
        services: published.view.compiled.services.len(),
        identities: published.view.compiled.identities.len(),
        policies: snapshot.policies.len(),
        policies_refused: snapshot.policies.values().filter(|p| p.refused.is_some()).count(),
        problems,
    }
}

fn proxy_problems(
    published: &crate::publish::Published,
    proxies: &[crate::publish::proxy::ProxyStatus],
) -> Vec<Problem> {
    let problem = |message: String| Problem { object: "proxy".into(), message };
    if proxies.is_empty() {
        let message = "not connected: connections that need layer 7 are dropped unless it serves its last \
                       configuration; see `heddle proxy`";
        return vec![problem(message.into())];
    }
    let behind = proxies.iter().filter(|proxy| proxy.refused.is_some() || proxy.late);
    let messages = behind.map(|proxy| match &proxy.refused {
        Some(why) => format!("pid {} refused a configuration: {why}", proxy.pid),
        None => format!("pid {} is at revision {}, behind {}", proxy.pid, proxy.revision, published.revision),
    });
    messages.map(problem).collect()
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
    let policies = published.view.snapshot.policies.values().map(|policy| Policy {
        kind: policy.kind.clone(),
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        rules: policy.rules.len(),
        refused: policy.refused.clone(),
    });
    Policies { policies: policies.collect() }
}

/// The agent's part of `GET /metrics`.
pub(super) async fn metrics_page(agent: &Agent) -> String {
    let status = status(agent);
    let gauges = Gauges {
        revision: status.revision,
        endpoints: status.endpoints_ready,
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
