//! Namespaces and nodes, those that no object describes included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use policy::snapshot::{Namespace, Node};

use super::super::endpoints;
use super::Assembler;

/// Label that every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The service of the API server.
const API_SERVER: &str = "default/kubernetes";

impl Assembler {
    /// Namespaces with an object of their own, and those that others imply.
    pub(super) fn assemble_namespaces(&mut self) -> bool {
        let implied =
            self.pods.keys().chain(self.services.keys()).filter_map(|key| Some(key.split_once('/')?.0));
        let of_policies = self.snapshot.policies.values().map(|p| p.namespace.as_str());
        let explicit = self.namespaces.keys().map(String::as_str);
        let names: BTreeSet<&str> =
            explicit.chain(implied).chain(of_policies).filter(|n| !n.is_empty()).collect();
        let mut next = BTreeMap::new();
        for name in names {
            let manifest = self.namespaces.get(name).and_then(|n| n.metadata.labels.clone());
            let mut labels = manifest.unwrap_or_default();
            labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
            let namespace = Namespace { name: name.to_owned(), labels };
            next.insert(name.to_owned(), keep(self.snapshot.namespaces.get(name), namespace));
        }
        replace(&mut self.snapshot.namespaces, next)
    }

    pub(super) fn assemble_nodes(&mut self) -> bool {
        let here = self.around.node.clone();
        let mut next = BTreeMap::new();
        for name in self.nodes.keys().chain(std::iter::once(&here)) {
            let manifest = self.nodes.get(name).map(|n| &**n);
            let mut node = node(name, manifest);
            if *name == here {
                let missing = self.around.node_addresses.iter().filter(|ip| !node.addresses.contains(ip));
                let missing: Vec<_> = missing.copied().collect();
                node.addresses.extend(missing);
                if node.pod_cidrs.is_empty() {
                    node.pod_cidrs.clone_from(&self.around.pod_cidrs);
                }
            }
            let before = self.snapshot.nodes.get(name);
            node.kube_apiserver = before.is_some_and(|n| n.kube_apiserver);
            next.insert(name.clone(), keep(before, node));
        }
        let changed = replace(&mut self.snapshot.nodes, next);
        if changed {
            let on_host = self.pods.iter().filter(|(_, pod)| endpoints::is_host_network(pod));
            self.dirty.pods.extend(on_host.map(|(key, _)| key.clone()));
        }
        changed
    }

    /// Notes on which nodes the API server runs, and its other addresses: the backends of its service.
    pub(super) fn mark_api_server(&mut self) -> bool {
        let service = self.snapshot.services.get(API_SERVER);
        let backends = service.iter().flat_map(|s| &s.ports).flat_map(|p| &p.backends);
        let mut addresses: BTreeSet<IpAddr> = backends.map(|b| b.address).collect();
        let mut changed = false;
        for node in self.snapshot.nodes.values_mut() {
            let runs = node.addresses.iter().any(|ip| addresses.contains(ip));
            addresses.retain(|ip| !node.addresses.contains(ip));
            if node.kube_apiserver != runs {
                Arc::make_mut(node).kube_apiserver = runs;
                changed = true;
            }
        }
        let mut elsewhere = self.around.settings.kube_apiserver.clone();
        elsewhere.extend(addresses.into_iter().filter(|ip| !self.address_owners.contains_key(ip)));
        if self.snapshot.settings.kube_apiserver != elsewhere {
            self.snapshot.settings.kube_apiserver = elsewhere;
            changed = true;
        }
        changed
    }
}

fn node(name: &str, manifest: Option<&core::Node>) -> Node {
    let status = manifest.and_then(|n| n.status.as_ref());
    let addresses = status.iter().flat_map(|s| s.addresses.iter().flatten());
    let addresses = addresses.filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"));
    let spec = manifest.and_then(|n| n.spec.as_ref());
    let cidrs = spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
    let mut pod_cidrs: Vec<IpNet> = Vec::new();
    for cidr in cidrs.filter_map(|cidr| cidr.parse().ok()) {
        if !pod_cidrs.contains(&cidr) {
            pod_cidrs.push(cidr);
        }
    }
    Node {
        name: name.to_owned(),
        labels: manifest.and_then(|n| n.metadata.labels.clone()).unwrap_or_default(),
        addresses: addresses.filter_map(|a| a.address.parse().ok()).collect(),
        pod_cidrs,
        kube_apiserver: false,
    }
}

/// The value before, if the new one equals it.
fn keep<T: PartialEq>(before: Option<&Arc<T>>, next: T) -> Arc<T> {
    before.filter(|b| ***b == next).cloned().unwrap_or_else(|| Arc::new(next))
}

/// Sets a map and tells whether it differs.
fn replace<T: PartialEq>(map: &mut BTreeMap<String, Arc<T>>, next: BTreeMap<String, Arc<T>>) -> bool {
    let changed = *map != next;
    *map = next;
    changed
}
