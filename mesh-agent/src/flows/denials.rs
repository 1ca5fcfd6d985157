//! Which policies stand behind a denial that no rule decided, for one published state.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use abi::{Direction, DropReason};
use policy::explain::{Party as Side, Selecting, is_refusal};
use policy::snapshot::Endpoint;
use policy::{CompiledPolicy, RuleRef, Snapshot};

use super::{DEFAULT_DENY_MAX, Flow, FlowVerdict, PolicyName};

/// Rules of one pod and direction above which the nearest one is not looked for: that takes microseconds for
/// each, and a thousand denials may come in a second.
const NEAREST_RULES_MAX: usize = 1000;

/// What was found out of a pod and direction, kept as long as the state is in force. There are at most two for
/// each pod.
#[derive(Debug, Default)]
pub(super) struct Denials {
    known: Mutex<HashMap<(u32, u8), Arc<Known>>>,
}

#[derive(Debug)]
struct Known {
    selecting: Selecting,
    closed_by: Vec<PolicyName>,
    more: u32,
}

/// A denied connection as policy sees it.
pub(super) struct Denied<'a> {
    /// Whose policy denied it.
    pub(super) own: &'a Arc<Endpoint>,
    pub(super) direction: Direction,
    pub(super) peer: Option<&'a Endpoint>,
    pub(super) peer_identity: u32,
    pub(super) peer_address: Option<IpAddr>,
    pub(super) proto: u8,
    /// Destination port; for ICMP the type.
    pub(super) port: u16,
}

/// Whether policy denied it for want of a rule that allows it.
pub(super) fn by_policy(flow: &Flow) -> bool {
    flow.verdict == FlowVerdict::Dropped && flow.reason == DropReason::PolicyDenied.name()
}

impl Denials {
    /// Completes a flow that policy denied and no rule decided.
    pub(super) fn explain(
        &self,
        snapshot: &Snapshot,
        compiled: &CompiledPolicy,
        denied: &Denied<'_>,
        flow: &mut Flow,
    ) {
        let known = self.known(snapshot, denied);
        flow.default_deny.clone_from(&known.closed_by);
        flow.default_deny_more = known.more;
        if flow.detail.is_empty() && known.selecting.rules() <= NEAREST_RULES_MAX {
            let name = |pod: &Endpoint| format!("{}/{}", pod.namespace, pod.name);
            let peer = Side {
                text: String::new(),
                identity: denied.peer_identity,
                endpoint: denied.peer.map(name),
                address: denied.peer_address,
                labels: compiled.identities.get(&denied.peer_identity).cloned().unwrap_or_default(),
            };
            let nearest = known.selecting.nearest(snapshot, &peer, denied.proto, denied.port);
            flow.detail = nearest.map(|rule| format!("nearest: {rule}")).unwrap_or_default();
        }
    }

    fn known(&self, snapshot: &Snapshot, denied: &Denied<'_>) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (denied.own.id, denied.direction as u8);
        let found = known.entry(key).or_insert_with(|| {
            let selecting = Selecting::new(snapshot, denied.own.clone(), denied.direction);
            let all = selecting.closed_by();
            let closed_by: Vec<_> = all.iter().take(DEFAULT_DENY_MAX).map(PolicyName::from).collect();
            let more = u32::try_from(all.len() - closed_by.len()).unwrap_or(u32::MAX);
            Arc::new(Known { selecting, closed_by, more })
        });
        found.clone()
    }
}

/// Whether the rule is a refused policy's denial.
pub(super) fn refused(snapshot: &Snapshot, rule: Option<&RuleRef>) -> bool {
    rule.is_some_and(|rule| is_refusal(snapshot, rule))
}
