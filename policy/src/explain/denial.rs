//! Why a flow is denied where no rule says so: the policies that closed the direction, and what came nearest.

use std::sync::Arc;

use abi::Direction;

use super::{Party, nearest};
use crate::compiled::RuleRef;
use crate::model::Rule;
use crate::snapshot::{Endpoint, PolicyObject, Snapshot};

/// The policies that speak of one direction of one endpoint. What one drop after the other is explained with:
/// the selectors of all policies are read once.
#[derive(Clone, Debug)]
pub struct Selecting {
    endpoint: Arc<Endpoint>,
    direction: Direction,
    objects: Vec<Arc<PolicyObject>>,
    rules: usize,
}

impl Selecting {
    /// Those that select `endpoint`, in the order of their keys (kind, namespace, name).
    pub fn new(snapshot: &Snapshot, endpoint: Arc<Endpoint>, direction: Direction) -> Self {
        let mut selecting = Self { endpoint, direction, objects: Vec::new(), rules: 0 };
        for object in snapshot.policies.values() {
            let rules = selecting.of(object).count();
            if rules > 0 {
                selecting.rules += rules;
                selecting.objects.push(object.clone());
            }
        }
        selecting
    }

    fn of<'a>(&'a self, object: &'a PolicyObject) -> impl Iterator<Item = &'a Rule> {
        let applies =
            |r: &&Rule| r.direction == self.direction && r.subject.matches(&self.endpoint.identity_labels);
        object.rules.iter().filter(applies)
    }

    /// How many rules [`nearest`](Self::nearest) looks at.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// The policies that turned default deny on, each with the first of its rules that does. Without any,
    /// nothing but the settings can have closed the direction.
    pub fn closed_by(&self) -> Vec<RuleRef> {
        let closing = self.objects.iter().filter_map(|object| {
            let rule = self.of(object).find(|rule| rule.default_deny)?;
            Some(RuleRef {
                kind: object.kind.clone(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                path: rule.path.clone(),
            })
        });
        closing.collect()
    }

    /// The rule that would have allowed a similar flow, as a sentence. `port`: for ICMP the type.
    pub fn nearest(&self, snapshot: &Snapshot, peer: &Party, proto: u8, port: u16) -> Option<String> {
        nearest::find(snapshot, &self.objects, &self.endpoint, self.direction, peer, proto, port)
    }
}
