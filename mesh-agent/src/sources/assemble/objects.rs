//! Changes of objects: what is kept of them, and what must be computed anew.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy::snapshot::Labels;

use super::super::object::{Kind, Object, ObjectKey};
use super::super::problem::Fault;
use super::super::services;
use super::super::store::Change;
use super::Assembler;

impl Assembler {
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
}

/// The keys of a namespace.
fn in_namespace<T>(objects: &std::collections::BTreeMap<String, T>, namespace: &str) -> Vec<String> {
    let prefix = format!("{namespace}/");
    let from = objects.range(prefix.clone()..);
    from.map(|(key, _)| key).take_while(|key| key.starts_with(&prefix)).cloned().collect()
}
