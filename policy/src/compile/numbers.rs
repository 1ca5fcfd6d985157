//! Numbers of rules: a hash of the rule's name with open addressing, so that a rule keeps its number over
//! revisions and restarts and an event can be understood after its policy has changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::compiled::RuleRef;
use crate::identity::Fnv;

/// Most rules that are remembered after they are gone.
const GONE_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct RuleNumbers {
    numbers: BTreeMap<RuleRef, u32>,
    used: BTreeMap<u32, RuleRef>,
    /// Asked for in the revision that is being compiled.
    current: BTreeSet<u32>,
}

impl RuleNumbers {
    /// The number of a rule, never 0.
    pub(super) fn number(&mut self, rule: RuleRef) -> u32 {
        let number = match self.numbers.get(&rule) {
            Some(number) => *number,
            None => self.assign(rule),
        };
        self.current.insert(number);
        number
    }

    /// These numbers are in use in this revision, too.
    pub(super) fn keep(&mut self, numbers: &[u32]) {
        self.current.extend(numbers);
    }

    /// Every rule with its number at the end of a revision; those that are gone are among them.
    pub(super) fn finish(&mut self) -> BTreeMap<u32, RuleRef> {
        let current = std::mem::take(&mut self.current);
        if self.used.len() > current.len() + GONE_MAX {
            self.used.retain(|number, _| current.contains(number));
            self.numbers.retain(|_, number| current.contains(number));
        }
        self.used.clone()
    }

    fn assign(&mut self, rule: RuleRef) -> u32 {
        let mut hash = Fnv::default();
        for text in [&rule.kind, &rule.namespace, &rule.name, &rule.path] {
            hash.write(text.as_bytes());
            hash.write(&[0]);
        }
        let mut number = (hash.0 as u32).max(1);
        while self.used.contains_key(&number) {
            number = number.wrapping_add(1).max(1);
        }
        self.used.insert(number, rule.clone());
        self.numbers.insert(rule, number);
        number
    }
}
