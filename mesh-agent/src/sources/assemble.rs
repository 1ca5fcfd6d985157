//! Objects into the [`Snapshot`], incrementally: a change recomputes what depends on it and leaves the rest
//! as it was, the same `Arc`s included. Knows nothing of where the objects come from. [`objects`] takes
//! changes; [`nodes`], [`pods`] and [`services`] each compute their part.

mod identities;
mod nodes;
mod objects;
mod pods;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy::identity::Identities;
use policy::snapshot::{Settings, Snapshot};

use super::cluster_ips::{Chosen, ClusterIps};
use super::label_index::LabelIndex;
use super::object::{Kind, ObjectKey};
use super::problem::Fault;
use super::registry::Registration;
use identities::Unused;

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
    /// A cluster's controllers give services their addresses and EndpointSlices, and kubelet reports pods'
    /// readiness: none of that is made here.
    pub managed: bool,
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
    unused: Unused,
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
            unused: Unused::default(),
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

    /// Takes the pods that are attached to this node, by `namespace/name`.
    pub fn register(&mut self, current: BTreeMap<String, Registration>) {
        let before = std::mem::replace(&mut self.registrations, current);
        let changed = self.registrations.iter().filter(|(key, r)| before.get(*key) != Some(r));
        let gone = before.keys().filter(|key| !self.registrations.contains_key(*key));
        self.dirty.pods.extend(changed.map(|(key, _)| key).chain(gone).cloned());
    }

    /// Takes the node's own addresses, which come and go.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        if self.around.node_addresses != addresses {
            self.around.node_addresses = addresses;
            self.dirty.nodes = true;
        }
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
}
