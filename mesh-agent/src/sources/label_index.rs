//! Finds the objects of a namespace by label, so that a change costs what it touches and not what there is.

use std::collections::{BTreeMap, BTreeSet};

/// Objects by namespace, label key and value.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    by_label: BTreeMap<(String, String, String), BTreeSet<String>>,
}

impl LabelIndex {
    pub(super) fn insert(&mut self, namespace: &str, labels: &BTreeMap<String, String>, object: &str) {
        for (key, value) in labels {
            let label = (namespace.to_owned(), key.clone(), value.clone());
            self.by_label.entry(label).or_default().insert(object.to_owned());
        }
    }

    pub(super) fn remove(&mut self, namespace: &str, labels: &BTreeMap<String, String>, object: &str) {
        for (key, value) in labels {
            let label = (namespace.to_owned(), key.clone(), value.clone());
            if let Some(objects) = self.by_label.get_mut(&label) {
                objects.remove(object);
                if objects.is_empty() {
                    self.by_label.remove(&label);
                }
            }
        }
    }

    /// The objects that have all of these labels. No label: none.
    pub(super) fn with_all(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&str> {
        let mut sets = Vec::with_capacity(labels.len());
        for (key, value) in labels {
            match self.by_label.get(&(namespace.to_owned(), key.clone(), value.clone())) {
                Some(objects) => sets.push(objects),
                None => return Vec::new(),
            }
        }
        sets.sort_by_key(|set| set.len());
        let Some((smallest, others)) = sets.split_first() else { return Vec::new() };
        smallest.iter().filter(|o| others.iter().all(|set| set.contains(*o))).map(String::as_str).collect()
    }

    /// The objects that have one of these labels.
    pub(super) fn with_any(&self, namespace: &str, labels: &BTreeMap<String, String>) -> BTreeSet<String> {
        let label = |(key, value): (&String, &String)| (namespace.to_owned(), key.clone(), value.clone());
        labels.iter().filter_map(|l| self.by_label.get(&label(l))).flatten().cloned().collect()
    }
}
