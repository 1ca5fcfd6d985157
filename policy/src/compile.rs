//! From a [`Snapshot`] to a [`CompiledPolicy`].
//!
//! `peers` says which identities there are and what an address belongs to, `resolve` whom rules mean,
//! `endpoint` turns the rules that select an endpoint into the entries of its map (`entries`) and its layer
//! 7 rule sets, `services` marks the services that need layer 7.

mod endpoint;
mod entries;
mod numbers;
mod peers;
mod resolve;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use abi::MAX_POLICY_ENTRIES;

use crate::compiled::{CompiledPolicy, EndpointPolicy};
use crate::identity::LocalIdentities;
use crate::model::Rule;
use crate::snapshot::{Labels, NamedPort, PolicyObject, Settings, Snapshot};

use endpoint::{Build, BuiltIn};
use numbers::RuleNumbers;
use peers::Peers;
use resolve::{Resolved, Resolver};

/// Compiles once. A process that compiles again and again keeps a [`Compiler`].
pub fn compile(snapshot: &Snapshot) -> CompiledPolicy {
    Compiler::default().compile(snapshot)
}

/// Compiles revision after revision. What lives longer than one of them: the numbers of rules and of
/// node-local identities, and the policies of endpoints that nothing has changed for.
#[derive(Debug, Default)]
pub struct Compiler {
    numbers: RuleNumbers,
    local: LocalIdentities,
    resolver: Resolver,
    settings: Settings,
    /// Policies of the last revision.
    built: HashMap<BuildKey, Arc<EndpointPolicy>>,
}

/// A rule together with the object that it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sourced<'a> {
    pub(crate) object: &'a Arc<PolicyObject>,
    pub(crate) rule: &'a Rule,
}

/// All that an endpoint's policy depends on, besides the settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct BuildKey {
    /// Of the rules that select it; see [`Resolved::stamp`].
    rules: Vec<u64>,
    /// Its own names of ports, if a rule asks for one.
    named_ports: Vec<NamedPort>,
    /// Changes with any peer's names of ports; 0 if no rule asks for one.
    peer_ports: u64,
}

impl Compiler {
    /// Compiles a snapshot under its own revision.
    pub fn compile(&mut self, snapshot: &Snapshot) -> CompiledPolicy {
        let rules = rules(snapshot);
        let peers = Peers::new(snapshot, &rules, &mut self.local);
        if self.settings != snapshot.settings {
            self.settings = snapshot.settings.clone();
            self.built.clear();
        }
        let built_in = BuiltIn::new(&mut self.numbers);
        let resolved = self.resolver.resolve(&rules, &peers, &mut self.numbers);
        let mut built = HashMap::new();
        let mut endpoints = BTreeMap::new();
        let mut alarms = Vec::new();
        // Pods of one workload have one label set: its selectors are read once.
        let mut selecting: HashMap<&Labels, Vec<&Resolved<'_>>> = HashMap::new();
        for endpoint in snapshot.endpoints.values().filter(|e| e.id != 0 && !e.host_network) {
            let labels = &*endpoint.identity_labels;
            let own = selecting
                .entry(labels)
                .or_insert_with(|| resolved.iter().filter(|r| r.rule.subject.matches(labels)).collect());
            let key = self.key(own, &endpoint.named_ports);
            let policy = match built.get(&key).or_else(|| self.built.get(&key)) {
                Some(policy) => Arc::clone(policy),
                None => {
                    let build = Build::new(&self.settings, &peers, built_in);
                    Arc::new(build.policy(own, &key.named_ports))
                }
            };
            if policy.entries.len() > MAX_POLICY_ENTRIES as usize {
                alarms.push(format!(
                    "{}/{}: its policy takes more than {MAX_POLICY_ENTRIES} entries; everything is denied",
                    endpoint.namespace, endpoint.name,
                ));
                endpoints.insert(endpoint.id, Arc::default());
            } else {
                endpoints.insert(endpoint.id, Arc::clone(&policy));
            }
            built.insert(key, policy);
        }
        self.built = built;
        CompiledPolicy {
            revision: snapshot.revision,
            identities: peers.identities(),
            services: services::compile(snapshot, &rules),
            rules: self.numbers.finish(),
            ipcache: peers.ipcache,
            endpoints,
            alarms,
        }
    }

    fn key(&self, own: &[&Resolved<'_>], named_ports: &[NamedPort]) -> BuildKey {
        let named = |direction| own.iter().any(|r| r.rule.direction == direction && r.has_named_ports());
        let ingress = named(abi::Direction::Ingress);
        let egress = named(abi::Direction::Egress);
        BuildKey {
            rules: own.iter().map(|r| r.stamp).collect(),
            named_ports: if ingress { named_ports.to_vec() } else { Vec::new() },
            peer_ports: if egress { self.resolver.ports_stamp() } else { 0 },
        }
    }
}

/// All rules in force, in the order of the objects' keys.
fn rules(snapshot: &Snapshot) -> Vec<Sourced<'_>> {
    if snapshot.settings.enforcement == crate::snapshot::Enforcement::Never {
        return Vec::new();
    }
    let objects = snapshot.policies.values();
    objects.flat_map(|object| object.rules.iter().map(move |rule| Sourced { object, rule })).collect()
}
