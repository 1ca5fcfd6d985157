//! Numbers of rules: a hash of the rule's name with open addressing, so that a rule keeps its number over
//! revisions and restarts and an event can be understood after its policy has changed.

use std::collections::BTreeMap;

use crate::compiled::RuleRef;
use crate::identity::Fnv;

#[derive(Debug, Default)]
pub(super) struct RuleNumbers {
    numbers: BTreeMap<RuleRef, u32>,
    used: BTreeMap<u32, RuleRef>,
}

impl RuleNumbers {
    /// The number of a rule, never 0.
    pub(super) fn number(&mut self, rule: RuleRef) -> u32 {
        if let Some(number) = self.numbers.get(&rule) {
            return *number;
        }
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

    pub(super) fn table(&self) -> BTreeMap<u32, RuleRef> {
        self.used.clone()
    }
}
