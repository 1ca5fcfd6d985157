//! Identities that no pod has any more: released after a while, forgotten after another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Assembler;

/// How long an identity stays assigned without a pod: a workload that is being replaced gets its number back,
/// and flows of a pod that is gone still have a name. As long again passes before the number may be another
/// label set's; by then no connection of such a pod is left.
pub(super) const IDENTITY_GRACE: Duration = Duration::from_secs(600);

/// Since when numbers have had no pod, or have been released.
#[derive(Debug, Default)]
pub(super) struct Unused {
    assigned: BTreeMap<u32, Instant>,
    released: BTreeMap<u32, Instant>,
}

impl Assembler {
    /// Releases what has long been unused. Called from time to time; `now` never goes back.
    pub fn release_identities(&mut self, now: Instant) {
        let used: BTreeSet<u32> = self.snapshot.endpoints.values().map(|pod| pod.identity).collect();
        let due = |since: &Instant| now.saturating_duration_since(*since) >= IDENTITY_GRACE;
        let unused = self.identities.iter().map(|(number, _)| number);
        let unused: Vec<u32> = unused.filter(|number| !used.contains(number)).collect();
        follow(&mut self.unused.assigned, &unused, now);
        for number in unused.iter().filter(|number| self.unused.assigned.get(number).is_some_and(due)) {
            self.identities.release(*number);
        }
        let released: Vec<u32> = self.identities.released().collect();
        follow(&mut self.unused.released, &released, now);
        // From the highest down: a search passes over a tombstone for the sake of what comes behind it.
        for number in released.iter().rev() {
            if self.unused.released.get(number).is_some_and(due) {
                self.identities.forget(*number);
            }
        }
    }
}

/// Keeps the times of these numbers alone; new ones begin now.
fn follow(times: &mut BTreeMap<u32, Instant>, numbers: &[u32], now: Instant) {
    times.retain(|number, _| numbers.binary_search(number).is_ok());
    for number in numbers {
        times.entry(*number).or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use policy::identity::Identities;

    use super::super::super::cluster_ips::Chosen;
    use super::super::super::file::Contents;
    use super::super::super::registry::Registration;
    use super::super::super::store::Store;
    use super::super::Surrounding;
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n\
                       spec: {containers: [{name: c, image: i}]}\n";

    /// An assembler of one pod that has run and is gone, and its identity.
    fn after_a_pod() -> (Assembler, u32) {
        let around = Surrounding { node: "n1".into(), first_revision: 1, ..Surrounding::default() };
        let mut assembler = Assembler::new(around, Identities::default(), Chosen::default());
        let (mut store, file) = (Store::default(), std::sync::Arc::new("a.yaml".into()));
        store.set_file(&file, Contents::read(&file, POD));
        assembler.apply(store.settle());
        let (namespace, pod) = ("default".to_owned(), "web".to_owned());
        let addresses = vec!["10.0.0.1".parse().expect("an address")];
        let registration = Registration { namespace, pod, endpoint: 1, addresses, ready: true };
        assembler.register([("default/web".to_owned(), registration)].into());
        assembler.assemble();
        let number = assembler.snapshot().endpoints["default/web"].identity;
        assembler.release_identities(Instant::now() + IDENTITY_GRACE * 5);
        assert!(assembler.identities().labels(number).is_some(), "in use");
        store.remove_file(&file);
        assembler.apply(store.settle());
        assembler.assemble();
        (assembler, number)
    }

    #[test]
    fn a_number_without_a_pod_is_released_and_then_free() {
        let (mut assembler, number) = after_a_pod();
        let begin = Instant::now();
        let labels = assembler.identities().labels(number).cloned().expect("still there");
        let second = Duration::from_secs(1);
        assembler.release_identities(begin);
        assembler.release_identities(begin + IDENTITY_GRACE - second);
        assert!(assembler.identities().labels(number).is_some(), "within the grace period");
        assembler.release_identities(begin + IDENTITY_GRACE);
        assert_eq!(assembler.identities().labels(number), None);
        assert_eq!(assembler.identities().released().collect::<Vec<_>>(), [number], "nobody else's yet");
        // The same labels in the meantime mean the same number.
        let mut again = assembler.identities().clone();
        assert_eq!(again.assign(&labels), Ok(number));
        assembler.release_identities(begin + IDENTITY_GRACE * 2 - second);
        assert_eq!(assembler.identities().released().count(), 1);
        assembler.release_identities(begin + IDENTITY_GRACE * 2);
        assert_eq!(assembler.identities(), &Identities::default(), "nothing is left of it");
    }
}
