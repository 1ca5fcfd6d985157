//! Services with their addresses and backends.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::super::object::{Kind, ObjectKey};
use super::super::services::{self, Selected, Source};
use super::Assembler;

impl Assembler {
    pub(super) fn assemble_services(&mut self) -> bool {
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
        if !slices.is_empty() || self.around.managed {
            return Source::Slices(slices);
        }
        let selected = services::selector(manifest).map(|s| self.pods_by_label.with_all(namespace, s));
        let pods = selected.unwrap_or_default().into_iter().filter_map(|pod| {
            Some(Selected { pod: self.pods.get(pod)?, endpoint: self.snapshot.endpoints.get(pod)? })
        });
        Source::Pods(pods.collect())
    }
}
