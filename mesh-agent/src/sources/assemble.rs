//! Objects into the [`Snapshot`], incrementally: a change recomputes what depends on it and leaves the rest
//! as it was, the same `Arc`s included. Knows nothing of where the objects come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy::identity::Identities;
use policy::snapshot::{Endpoint, Labels, Namespace, Node, Settings, Snapshot};

use super::cluster_ips::{Chosen, ClusterIps};
use super::endpoints::{self, Surroundings};
use super::label_index::LabelIndex;
use super::object::{Kind, Object, ObjectKey};
use super::problem::Fault;
use super::registry::Registration;
use super::services::{self, Selected, Source};
use super::store::Change;

/// Label that every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The service of the API server.
const API_SERVER: &str = "default/kubernetes";

/// What does not come from objects.
#[derive(Clone, Debug, Default)]
pub struct Surrounding {
    /// Name of the node that we run on.
    pub node: String,
    /// Its addresses, as its interfaces have them.
    pub node_addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// Blocks for services' addresses; the family of the first is the default one.
    pub service_cidrs: Vec<IpNet>,
    /// Name of the cluster, part of every identity.
    pub cluster: String,
    pub settings: Settings,
    /// Revision of the first snapshot, 1 or more.
    pub first_revision: u32,
}

/// Keeps a snapshot up to date.
#[derive(Debug)]
pub struct Assembler {
    around: Surrounding,
    namespaces: BTreeMap<String, Arc<core::Namespace>>,
    nodes: BTreeMap<String, Arc<core::Node>>,
    pods: BTreeMap<String, Arc<core::Pod>>,
    services: BTreeMap<String, Arc<core::Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    /// Names of slices by the service they belong to.
    slices_of: BTreeMap<String, BTreeSet<String>>,
    registrations: BTreeMap<String, Registration>,
    pods_by_label: LabelIndex,
    services_by_selector: LabelIndex,
    /// Which endpoint has an address.
    address_owners: BTreeMap<IpAddr, String>,
    identities: Identities,
    cluster_ips: ClusterIps,
    faults: BTreeMap<ObjectKey, Vec<Fault>>,
    dirty: Dirty,
    snapshot: Snapshot,
}

/// What must be computed anew.
#[derive(Debug, Default)]
struct Dirty {
    nodes: bool,
    policies: bool,
    pods: BTreeSet<String>,
    services: BTreeSet<String>,
}

impl Assembler {
    /// An empty world. `identities` and `chosen` come from the last run.
    pub fn new(around: Surrounding, identities: Identities, chosen: Chosen) -> Self {
        let snapshot = Snapshot {
            node: around.node.clone(),
            settings: around.settings.clone(),
            revision: around.first_revision.saturating_sub(1),
            ..Snapshot::default()
        };
        let cluster_ips = ClusterIps::new(around.service_cidrs.clone(), chosen);
        Self {
            around,
            identities,
            cluster_ips,
            snapshot,
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            registrations: BTreeMap::new(),
            pods_by_label: LabelIndex::default(),
            services_by_selector: LabelIndex::default(),
            address_owners: BTreeMap::new(),
            faults: BTreeMap::new(),
            dirty: Dirty { nodes: true, ..Dirty::default() },
        }
    }

    /// Numbers of identities, to be kept before the snapshot is used.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Addresses of services, to be kept.
    pub fn chosen(&self) -> &Chosen {
        self.cluster_ips.chosen()
    }

    /// What is wrong between objects that are valid each for itself.
    pub fn faults(&self) -> &BTreeMap<ObjectKey, Vec<Fault>> {
        &self.faults
    }

    /// The pods' manifests by `namespace/name`.
    pub fn pods(&self) -> &BTreeMap<String, Arc<core::Pod>> {
        &self.pods
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes changes of objects. They show with the next [`Self::assemble`].
    pub fn apply(&mut self, changes: Vec<Change>) {
        for (key, object) in changes {
            self.faults.remove(&key);
            match key.kind {
                Kind::Namespace => self.set_namespace(&key, object),
                Kind::Node => self.set_node(&key, object),
                Kind::Pod => self.set_pod(&key, object),
                Kind::Service => self.set_service(&key, object),
                Kind::EndpointSlice => self.set_slice(&key, object),
                _ => self.set_policy(&key, object),
            }
        }
    }

    /// Takes the pods that are attached to this node, by `namespace/name`.
    pub fn register(&mut self, current: BTreeMap<String, Registration>) {
        let before = std::mem::replace(&mut self.registrations, current);
        let changed = self.registrations.iter().filter(|(key, r)| before.get(*key) != Some(r));
        let gone = before.keys().filter(|key| !self.registrations.contains_key(*key));
        self.dirty.pods.extend(changed.map(|(key, _)| key).chain(gone).cloned());
    }

    fn set_namespace(&mut self, key: &ObjectKey, object: Option<Object>) {
        match object {
            Some(Object::Namespace(namespace)) => drop(self.namespaces.insert(key.name.clone(), namespace)),
            _ => drop(self.namespaces.remove(&key.name)),
        }
        self.dirty.pods.extend(in_namespace(&self.pods, &key.name));
    }

    fn set_node(&mut self, key: &ObjectKey, object: Option<Object>) {
        match object {
            Some(Object::Node(node)) => drop(self.nodes.insert(key.name.clone(), node)),
            _ => drop(self.nodes.remove(&key.name)),
        }
        self.dirty.nodes = true;
    }

    fn set_pod(&mut self, key: &ObjectKey, object: Option<Object>) {
        let path = key.path();
        let no_labels = Labels::new();
        let before = match &object {
            Some(Object::Pod(pod)) => self.pods.insert(path.clone(), pod.clone()),
            _ => self.pods.remove(&path),
        };
        if let Some(before) = before {
            let labels = before.metadata.labels.as_ref().unwrap_or(&no_labels);
            self.dirty.services.extend(self.services_by_selector.with_any(&key.namespace, labels));
            self.pods_by_label.remove(&key.namespace, labels, &path);
        }
        if let Some(Object::Pod(pod)) = &object {
            let labels = pod.metadata.labels.as_ref().unwrap_or(&no_labels);
            self.dirty.services.extend(self.services_by_selector.with_any(&key.namespace, labels));
            self.pods_by_label.insert(&key.namespace, labels, &path);
        }
        self.dirty.pods.insert(path);
    }

    fn set_service(&mut self, key: &ObjectKey, object: Option<Object>) {
        let path = key.path();
        let before = match &object {
            Some(Object::Service(service)) => self.services.insert(path.clone(), service.clone()),
            _ => self.services.remove(&path),
        };
        if let Some(selector) = before.as_deref().and_then(services::selector) {
            self.services_by_selector.remove(&key.namespace, selector, &path);
        }
        if let Some(Object::Service(service)) = &object
            && let Some(selector) = services::selector(service)
        {
            self.services_by_selector.insert(&key.namespace, selector, &path);
        }
        self.dirty.services.insert(path);
    }

    fn set_slice(&mut self, key: &ObjectKey, object: Option<Object>) {
        let path = key.path();
        let before = match &object {
            Some(Object::EndpointSlice(slice)) => self.slices.insert(path.clone(), slice.clone()),
            _ => self.slices.remove(&path),
        };
        let service = |slice: &EndpointSlice| {
            let name = slice.metadata.labels.as_ref()?.get(services::SERVICE_NAME)?;
            Some(format!("{}/{name}", key.namespace))
        };
        if let Some(service) = before.as_deref().and_then(service) {
            if let Some(slices) = self.slices_of.get_mut(&service) {
                slices.remove(&path);
            }
            self.dirty.services.insert(service);
        }
        if let Some(Object::EndpointSlice(slice)) = &object {
            match service(slice) {
                Some(service) => {
                    self.slices_of.entry(service.clone()).or_default().insert(path);
                    self.dirty.services.insert(service);
                }
                None => {
                    let reason = "missing: the slice belongs to no service and is not used";
                    let fault = Fault::new(format!("metadata.labels.{}", services::SERVICE_NAME), reason);
                    self.faults.insert(key.clone(), vec![fault]);
                }
            }
        }
    }

    fn set_policy(&mut self, key: &ObjectKey, object: Option<Object>) {
        let path = format!("{}/{}/{}", key.kind.name(), key.namespace, key.name);
        match object {
            Some(Object::Policy(policy)) => drop(self.snapshot.policies.insert(path, policy)),
            _ => drop(self.snapshot.policies.remove(&path)),
        }
        self.dirty.policies = true;
    }

    /// Brings the snapshot up to date. Returns whether it differs from the one before; its revision is
    /// larger then.
    pub fn assemble(&mut self) -> bool {
        let first = self.snapshot.revision < self.around.first_revision;
        let mut changed = std::mem::take(&mut self.dirty.policies) || first;
        // Those that lost a contest may win it now.
        let contested: Vec<_> = self.faults.keys().cloned().collect();
        for key in contested {
            match key.kind {
                Kind::Pod => drop(self.dirty.pods.insert(key.path())),
                Kind::Service => drop(self.dirty.services.insert(key.path())),
                _ => {}
            }
        }
        changed |= self.assemble_namespaces();
        changed |= std::mem::take(&mut self.dirty.nodes) && self.assemble_nodes();
        changed |= self.assemble_endpoints();
        changed |= self.assemble_services();
        changed |= self.mark_api_server();
        if changed {
            self.snapshot.revision = self.snapshot.revision.checked_add(1).unwrap_or(1);
        }
        changed
    }

    /// Namespaces with an object of their own, and those that others imply.
    fn assemble_namespaces(&mut self) -> bool {
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

    fn assemble_nodes(&mut self) -> bool {
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

    fn assemble_endpoints(&mut self) -> bool {
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

    /// An address belongs to one endpoint: attached pods come before manifests' claims, then the order of
    /// names decides.
    fn own_addresses(&mut self, mut endpoint: Endpoint, key: &str, object: ObjectKey) -> Option<Endpoint> {
        let mut faults = Vec::new();
        let owners = &mut self.address_owners;
        let rank = |key: &str, registrations: &BTreeMap<String, Registration>| {
            (!registrations.contains_key(key), key.to_owned())
        };
        endpoint.addresses.retain(|ip| match owners.get(ip) {
            Some(owner) if rank(owner, &self.registrations) < rank(key, &self.registrations) => {
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

    fn assemble_services(&mut self) -> bool {
        let mut changed = false;
        let services = &self.services;
        self.cluster_ips.retain(|key| services.contains_key(key));
        let available = self.cluster_ips.families();
        while let Some(key) = self.dirty.services.pop_first() {
            let Some(manifest) = self.services.get(&key).cloned() else {
                changed |= self.snapshot.services.remove(&key).is_some();
                continue;
            };
            let (namespace, name) = key.split_once('/').unwrap_or(("default", &key));
            let object =
                ObjectKey { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
            let granted = self.cluster_ips.grant(&key, &services::wanted(&manifest, &available));
            self.dirty.services.extend(granted.evicted);
            self.faults.remove(&object);
            if !granted.faults.is_empty() {
                self.faults.insert(object, granted.faults);
            }
            let source = self.source(&key, namespace, &manifest);
            let next = services::service(namespace, &manifest, granted.addresses, &available, &source);
            if self.snapshot.services.get(&key).map(|s| &**s) != Some(&next) {
                self.snapshot.services.insert(key, Arc::new(next));
                changed = true;
            }
        }
        changed
    }

    fn source(&self, key: &str, namespace: &str, manifest: &core::Service) -> Source<'_> {
        let slices = self.slices_of.get(key).into_iter().flatten();
        let slices: Vec<_> = slices.filter_map(|slice| self.slices.get(slice)).collect();
        if !slices.is_empty() {
            return Source::Slices(slices);
        }
        let selected = services::selector(manifest).map(|s| self.pods_by_label.with_all(namespace, s));
        let pods = selected.unwrap_or_default().into_iter().filter_map(|pod| {
            Some(Selected { pod: self.pods.get(pod)?, endpoint: self.snapshot.endpoints.get(pod)? })
        });
        Source::Pods(pods.collect())
    }

    /// Notes on which nodes the API server runs, and its other addresses: the backends of its service.
    fn mark_api_server(&mut self) -> bool {
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

/// The keys of a namespace.
fn in_namespace<T>(objects: &BTreeMap<String, T>, namespace: &str) -> Vec<String> {
    let prefix = format!("{namespace}/");
    let from = objects.range(prefix.clone()..);
    from.map(|(key, _)| key).take_while(|key| key.starts_with(&prefix)).cloned().collect()
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
