//! Objects of the API as the assembler takes them. Whatever it does not look at is dropped at once: that is
//! most of an object, and there may be tens of thousands.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::report::Reported;
use crate::sources::object::{Kind, Object};
use crate::sources::problem::Fault;
use crate::sources::{endpoints, validate};

/// An object as the worker gets it.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Object(Object),
    /// A policy's manifest, still to be judged, and what its status says of it.
    Policy(Arc<Value>, Option<Reported>),
    /// Beyond what we can carry.
    Refused(Fault),
}

/// A type of the API that is followed.
pub(super) trait Watched:
    kube::Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// What is used of it.
    fn read(self, kind: Kind) -> Item;
}

impl Watched for core::Namespace {
    fn read(self, _: Kind) -> Item {
        Item::Object(Object::Namespace(Arc::new(Self { metadata: names(self.metadata), ..Self::default() })))
    }
}

impl Watched for core::Node {
    fn read(self, _: Kind) -> Item {
        let spec = self.spec.map(|spec| core::NodeSpec {
            pod_cidr: spec.pod_cidr,
            pod_cidrs: spec.pod_cidrs,
            ..Default::default()
        });
        let status =
            self.status.map(|status| core::NodeStatus { addresses: status.addresses, ..Default::default() });
        let node = Self { metadata: names(self.metadata), spec, status };
        checked(node, validate::node, Object::Node)
    }
}

impl Watched for Pod {
    fn read(self, _: Kind) -> Item {
        let mut annotations = self.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|key, _| endpoints::ANNOTATIONS.contains(&key.as_str()));
        let mut metadata = names(self.metadata);
        metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
        let spec = self.spec.map(pod_spec);
        let status = self.status.map(|status| {
            let mut conditions = status.conditions.unwrap_or_default();
            conditions.retain(|condition| condition.type_ == "Ready");
            PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                conditions: Some(conditions),
                ..Default::default()
            }
        });
        Item::Object(Object::Pod(Arc::new(Self { metadata, spec, status })))
    }
}

impl Watched for Service {
    fn read(self, _: Kind) -> Item {
        let service = Self { metadata: names(self.metadata), spec: self.spec, status: None };
        checked(service, validate::service, Object::Service)
    }
}

impl Watched for EndpointSlice {
    fn read(self, _: Kind) -> Item {
        let slice = Self { metadata: names(self.metadata), ..self };
        checked(slice, validate::endpoint_slice, Object::EndpointSlice)
    }
}

impl Watched for DynamicObject {
    fn read(self, kind: Kind) -> Item {
        let mut manifest = match self.data {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        // What is reported of it is no part of it: a change of status is no change of the policy.
        let reported = manifest.remove("status").as_ref().and_then(Reported::of);
        manifest.insert("apiVersion".into(), kind.api_version().into());
        manifest.insert("kind".into(), kind.name().into());
        let meta = self.metadata;
        let metadata = json!({
            "name": meta.name, "namespace": meta.namespace, "uid": meta.uid, "generation": meta.generation,
        });
        manifest.insert("metadata".into(), metadata);
        Item::Policy(Arc::new(Value::Object(manifest)), reported)
    }
}

fn checked<T>(object: T, check: fn(&T) -> Result<(), Fault>, wrap: fn(Arc<T>) -> Object) -> Item {
    match check(&object) {
        Ok(()) => Item::Object(wrap(Arc::new(object))),
        Err(fault) => Item::Refused(fault),
    }
}

fn pod_spec(spec: PodSpec) -> PodSpec {
    let container = |container: Container| Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Default::default()
    };
    let sidecars: Vec<Container> =
        spec.init_containers.into_iter().flatten().filter(endpoints::is_sidecar).map(container).collect();
    PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: Some(sidecars).filter(|s| !s.is_empty()),
        host_network: spec.host_network,
        hostname: spec.hostname,
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        subdomain: spec.subdomain,
        ..Default::default()
    }
}

/// What every object is known by.
fn names(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels.filter(|labels: &BTreeMap<_, _>| !labels.is_empty()),
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        ..Default::default()
    }
}
