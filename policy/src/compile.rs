//! From a [`Snapshot`] to a [`CompiledPolicy`].
//!
//! `peers` says which identities there are and what an address belongs to, `endpoint` turns the rules that
//! select an endpoint into the entries of its map (`entries`) and its layer 7 rule sets, `services` marks
//! the services that need layer 7.

mod endpoint;
mod entries;
mod numbers;
mod peers;
mod services;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compiled::{CompiledPolicy, EndpointPolicy};
use crate::identity::LocalIdentities;
use crate::model::Rule;
use crate::snapshot::{Labels, NamedPort, PolicyObject, Snapshot};

use numbers::RuleNumbers;
use peers::Peers;

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
}

/// A rule together with the object that it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sourced<'a> {
    pub(crate) object: &'a PolicyObject,
    pub(crate) rule: &'a Rule,
}

impl Compiler {
    /// Compiles a snapshot under its own revision.
    pub fn compile(&mut self, snapshot: &Snapshot) -> CompiledPolicy {
        let rules = rules(snapshot);
        let peers = Peers::new(snapshot, &rules, &mut self.local);
        let resolved = endpoint::resolve(&rules, &peers, &mut self.numbers);
        let mut shared: BTreeMap<(Arc<Labels>, Vec<NamedPort>), Arc<EndpointPolicy>> = BTreeMap::new();
        let mut endpoints = BTreeMap::new();
        for endpoint in snapshot.endpoints.values() {
            if endpoint.host_network || endpoint.id == 0 {
                continue;
            }
            let key = (endpoint.identity_labels.clone(), endpoint.named_ports.clone());
            let policy = shared.entry(key).or_insert_with(|| {
                let labels = &endpoint.identity_labels;
                let build = endpoint::Build::new(&snapshot.settings, &peers, &mut self.numbers);
                Arc::new(build.policy(&resolved, labels, &endpoint.named_ports))
            });
            endpoints.insert(endpoint.id, policy.clone());
        }
        CompiledPolicy {
            revision: snapshot.revision,
            identities: peers.identities(),
            ipcache: peers.ipcache,
            services: services::compile(snapshot, &rules),
            endpoints,
            rules: self.numbers.table(),
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
