//! A compiled policy as the proxy is sent it: [`ProxyState`] is everything it needs at one revision, and
//! [`ProxyState::delta`] the message that leads from one state to another. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use l7_proxy::wire;
use policy::l7::{HttpRule, L7RuleSet, MismatchAction};
use policy::{CompiledPolicy, EndpointPolicy, Snapshot};

/// The proxy's whole configuration, by the keys that removals name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyState {
    pub revision: u32,
    pub node: String,
    endpoints: BTreeMap<u32, Arc<wire::Endpoint>>,
    /// By `vip:port/proto`.
    services: BTreeMap<String, wire::Service>,
    ipcache: BTreeMap<String, wire::Prefix>,
    identities: BTreeMap<u32, wire::Identity>,
    rules: BTreeMap<u32, wire::Rule>,
}

impl ProxyState {
    /// What the proxy must know of `compiled`. Endpoint messages of `before` are used again where nothing
    /// changed: they are most of the work.
    pub fn new(snapshot: &Snapshot, compiled: &CompiledPolicy, before: &Self) -> Self {
        let pods = snapshot.endpoints.values().filter(|endpoint| endpoint.id != 0);
        let endpoints = pods.filter_map(|pod| {
            let message = endpoint(pod, compiled.endpoints.get(&pod.id)?);
            let same = before.endpoints.get(&pod.id).filter(|known| ***known == message);
            Some((pod.id, same.cloned().unwrap_or_else(|| Arc::new(message))))
        });
        let services = compiled.services.iter().map(|service| {
            let message = wire::Service {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port_name: service.port_name.clone(),
                vip: service.vip.to_string(),
                proto: u32::from(service.proto),
                keep_vip: service.keep_vip,
                backends: service.backends.iter().map(ToString::to_string).collect(),
                affinity_seconds: service.affinity_seconds,
            };
            (format!("{}/{}", service.vip, service.proto), message)
        });
        let ipcache = compiled.ipcache.iter().map(|(net, target)| {
            let prefix = net.to_string();
            let message = wire::Prefix {
                prefix: prefix.clone(),
                identity: target.identity,
                endpoint: target.endpoint,
                flags: target.flags,
            };
            (prefix, message)
        });
        let identities = compiled.identities.iter().map(|(number, labels)| {
            (*number, wire::Identity { number: *number, labels: crate::flows::label_list(labels) })
        });
        let rules = compiled.rules.iter().map(|(number, rule)| {
            let message = wire::Rule {
                number: *number,
                kind: rule.kind.clone(),
                namespace: rule.namespace.clone(),
                name: rule.name.clone(),
                path: rule.path.clone(),
            };
            (*number, message)
        });
        Self {
            revision: compiled.revision,
            node: snapshot.node.clone(),
            endpoints: endpoints.collect(),
            services: services.collect(),
            ipcache: ipcache.collect(),
            identities: identities.collect(),
            rules: rules.collect(),
        }
    }

    /// This state and, besides, whatever of `before` it no longer has: what is removed leaves the kernel
    /// first, and until then the proxy must still know it.
    pub fn with_remains_of(&self, before: &Self) -> Self {
        let mut all = self.clone();
        keep(&mut all.endpoints, &before.endpoints);
        keep(&mut all.services, &before.services);
        keep(&mut all.ipcache, &before.ipcache);
        keep(&mut all.identities, &before.identities);
        keep(&mut all.rules, &before.rules);
        all
    }

    /// The message that brings a proxy from `before` (`None`: from nothing) to this state.
    pub fn delta(&self, before: Option<&Self>) -> wire::ConfigUpdate {
        let nothing = Self::default();
        let from = before.unwrap_or(&nothing);
        wire::ConfigUpdate {
            revision: self.revision,
            full: before.is_none(),
            endpoints: changed(&from.endpoints, &self.endpoints).map(|e| (**e).clone()).collect(),
            removed_endpoints: removed(&from.endpoints, &self.endpoints),
            services: changed(&from.services, &self.services).cloned().collect(),
            removed_services: removed(&from.services, &self.services),
            ipcache: changed(&from.ipcache, &self.ipcache).cloned().collect(),
            removed_prefixes: removed(&from.ipcache, &self.ipcache),
            identities: changed(&from.identities, &self.identities).cloned().collect(),
            removed_identities: removed(&from.identities, &self.identities),
            rules: changed(&from.rules, &self.rules).cloned().collect(),
            removed_rules: removed(&from.rules, &self.rules),
            node: self.node.clone(),
        }
    }

    /// Whether the two are the same but for their revision.
    pub fn equivalent(&self, other: &Self) -> bool {
        self.node == other.node
            && self.endpoints == other.endpoints
            && self.services == other.services
            && self.ipcache == other.ipcache
            && self.identities == other.identities
            && self.rules == other.rules
    }
}

fn keep<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, from: &BTreeMap<K, V>) {
    for (key, value) in from {
        into.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a V> {
    now.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(_, value)| value)
}

fn removed<K: Ord + Clone, V>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> Vec<K> {
    before.keys().filter(|key| !now.contains_key(key)).cloned().collect()
}

fn endpoint(pod: &policy::snapshot::Endpoint, compiled: &EndpointPolicy) -> wire::Endpoint {
    let entries = compiled.entries.iter().map(|(key, entry)| wire::PolicyMapEntry {
        prefix_len: key.prefix_len,
        identity: key.identity,
        direction: u32::from(key.direction),
        proto: u32::from(key.proto),
        port: u32::from(u16::from_be(key.port)),
        precedence: entry.precedence,
        rule: entry.rule,
        verdict: u32::from(entry.verdict),
    });
    wire::Endpoint {
        id: pod.id,
        identity: pod.identity,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        entries: entries.collect(),
        l7: compiled.l7.iter().map(rule_set).collect(),
    }
}

fn rule_set(set: &L7RuleSet) -> wire::L7RuleSet {
    wire::L7RuleSet {
        direction: set.direction as u32,
        any_peer: set.peers.is_none(),
        peers: set.peers.iter().flatten().copied().collect(),
        first_port: u32::from(set.ports.0),
        last_port: u32::from(set.ports.1),
        rule: set.rule,
        http: set.http.iter().map(http_rule).collect(),
    }
}

fn http_rule(rule: &HttpRule) -> wire::HttpRule {
    let headers = rule.headers.iter().map(|header| wire::HeaderRule {
        name: header.name.clone(),
        value: header.value.clone(),
        mismatch: match header.mismatch {
            MismatchAction::Fail => 0,
            MismatchAction::Log => 1,
            MismatchAction::Add => 2,
            MismatchAction::Delete => 3,
            MismatchAction::Replace => 4,
        },
    });
    wire::HttpRule {
        method: rule.method.clone(),
        path: rule.path.clone(),
        host: rule.host.clone(),
        headers: headers.collect(),
    }
}

#[cfg(test)]
mod tests;
