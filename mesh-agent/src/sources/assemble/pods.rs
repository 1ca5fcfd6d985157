//! Pods: the endpoints of the snapshot, and whose an address is.

use std::cmp::Reverse;
use std::sync::Arc;

use policy::snapshot::Endpoint;

use super::super::endpoints::{self, Surroundings};
use super::super::object::{Kind, ObjectKey};
use super::super::problem::Fault;
use super::Assembler;

impl Assembler {
    pub(super) fn assemble_endpoints(&mut self) -> bool {
        let mut changed = false;
        // A pod that takes an address over makes another one dirty. Each round takes at least one address
        // from a pod for good, so this ends.
        while let Some(key) = self.dirty.pods.pop_first() {
            let next = self.endpoint(&key);
            let before = self.snapshot.endpoints.get(&key);
            if before.map(|b| &**b) == next.as_ref() {
                continue;
            }
            changed = true;
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            let labels = before.map(|e| &e.labels).into_iter().chain(next.as_ref().map(|e| &e.labels));
            for labels in labels {
                self.dirty.services.extend(self.services_by_selector.with_any(namespace, labels));
            }
            match next {
                Some(endpoint) => drop(self.snapshot.endpoints.insert(key, Arc::new(endpoint))),
                None => drop(self.snapshot.endpoints.remove(&key)),
            }
        }
        changed
    }

    fn endpoint(&mut self, key: &str) -> Option<Endpoint> {
        let (namespace, name) = key.split_once('/')?;
        let object = ObjectKey { kind: Kind::Pod, namespace: namespace.to_owned(), name: name.to_owned() };
        self.faults.remove(&object);
        for ip in self.snapshot.endpoints.get(key).map(|e| e.addresses.clone()).unwrap_or_default() {
            if self.address_owners.get(&ip).is_some_and(|owner| owner == key) {
                self.address_owners.remove(&ip);
            }
        }
        let Some(pod) = self.pods.get(key).cloned() else {
            if self.registrations.contains_key(key) {
                let reason =
                    "attached to this node, but there is no such Pod object: all its traffic is dropped";
                self.faults.insert(object, vec![Fault::new("", reason)]);
            }
            return None;
        };
        let around = Surroundings {
            cluster: &self.around.cluster,
            here: &self.around.node,
            namespace: self.snapshot.namespaces.get(namespace)?,
            node: self.snapshot.nodes.get(endpoints::node_name(&pod, &self.around.node)).map(|n| &**n),
            registration: self.registrations.get(key),
            managed: self.around.managed,
        };
        match endpoints::endpoint(&pod, &around, &mut self.identities) {
            Ok(Some(endpoint)) if endpoint.host_network => Some(endpoint),
            Ok(Some(endpoint)) => self.own_addresses(endpoint, key, object),
            Ok(None) => None,
            Err(error) => {
                self.faults.insert(object, vec![Fault::new("metadata.labels", error.to_string())]);
                None
            }
        }
    }

    /// An address belongs to one endpoint: attached pods come before manifests' claims, those that end come
    /// last, newer ones first (their address was another's before), then the order of names decides.
    fn own_addresses(&mut self, mut endpoint: Endpoint, key: &str, object: ObjectKey) -> Option<Endpoint> {
        let mut faults = Vec::new();
        let owners = &mut self.address_owners;
        let (registrations, pods) = (&self.registrations, &self.pods);
        let rank = |key: &str| {
            let metadata = pods.get(key).map(|pod| &pod.metadata);
            let ends = metadata.is_some_and(|m| m.deletion_timestamp.is_some());
            let made = metadata.and_then(|m| m.creation_timestamp.clone());
            (!registrations.contains_key(key), ends, Reverse(made), key.to_owned())
        };
        endpoint.addresses.retain(|ip| match owners.get(ip) {
            Some(owner) if rank(owner) < rank(key) => {
                let reason = format!("{ip} is the address of pod {owner} already");
                faults.push(Fault::new("status.podIPs", reason));
                false
            }
            owner => {
                self.dirty.pods.extend(owner.cloned());
                owners.insert(*ip, key.to_owned());
                true
            }
        });
        if !faults.is_empty() {
            self.faults.insert(object, faults);
        }
        (!endpoint.addresses.is_empty()).then_some(endpoint)
    }
}
