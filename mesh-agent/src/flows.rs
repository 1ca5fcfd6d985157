//! Flows: what happened to connections and requests, as users see it. Kernel events and the proxy's access
//! records become one shape ([`Flow`], made in [`view`]), the newest stay in a ring ([`FlowLog`]), and
//! [`filter`] picks those that someone asked for.

mod denials;
pub mod filter;
pub mod view;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use policy::RuleRef;
use policy::snapshot::Labels;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Flows that are kept.
pub const RING_MAX: usize = 8192;
/// Flows that a slow follower may be behind before it loses some (and is told how many).
const FOLLOW_MAX: usize = 4096;

/// Policies behind one default deny that a flow names.
pub const DEFAULT_DENY_MAX: usize = 16;

/// One connection, request or dropped packet. Field names and values are stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// RFC 3339, UTC, nanoseconds.
    pub time: String,
    pub verdict: FlowVerdict,
    /// `kernel` or `proxy`: who decided.
    pub observed_by: Observer,
    /// Whose policy decided: `ingress` or `egress`.
    pub direction: String,
    /// `TCP`, `UDP`, `ICMPv4`, `ICMPv6`, `SCTP`, or the IANA number.
    pub protocol: String,
    pub source: Party,
    pub destination: Party,
    /// Name of the drop reason, only with a drop.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The policy that decided, absent if none did (default deny).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// With `policy`: it was refused, and denies what it selects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// With a drop that no rule decided: the policies that turned default deny on for this pod and
    /// direction, each with its first rule that does, in the order of kind, namespace and name. At most
    /// [`DEFAULT_DENY_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_deny: Vec<PolicyName>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub default_deny_more: u32,
    /// For people: what of the nearest rule did not match, or which rule came nearest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// TCP flags of the packet, such as `SYN`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tcp_flags: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// The request, if the proxy saw one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<L7>,
    /// Address and port of the backend that the proxy chose.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// Policy revision that decided.
    pub revision: u32,
    pub node: String,
}

impl Flow {
    /// Whether policy denied it, and no policy is named: the names are not those of the deciding revision.
    pub fn lacks_policy(&self) -> bool {
        denials::by_policy(self) && self.policy.is_none() && self.default_deny.is_empty()
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FlowVerdict {
    /// Goes its way (in the kernel), or the request was forwarded (by the proxy).
    #[default]
    #[value(alias = "allowed")]
    Forwarded,
    /// The connection was given to the proxy, which reports its requests.
    Redirected,
    /// Denied, or it could not be served.
    #[value(alias = "denied")]
    Dropped,
}

impl FlowVerdict {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Redirected => "REDIRECTED",
            Self::Dropped => "DROPPED",
        }
    }
}

/// Who decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    #[default]
    Kernel,
    Proxy,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// 0 where there are no ports (ICMP).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    pub identity: u32,
    /// `key=value`, sorted; `reserved:world` and the like for what is no pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Of the pod, if it is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `namespace/name` of the service whose virtual address this is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// A policy and the rule in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyName {
    /// `CiliumNetworkPolicy`, ...; `heddle` for built-in rules.
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    /// Field path, such as `spec.ingress[0].toPorts[1]`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
}

impl From<&RuleRef> for PolicyName {
    fn from(rule: &RuleRef) -> Self {
        Self {
            kind: rule.kind.clone(),
            namespace: rule.namespace.clone(),
            name: rule.name.clone(),
            rule: rule.path.clone(),
        }
    }
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind, self.namespace, self.name)?;
        if self.rule.is_empty() { Ok(()) } else { write!(f, " {}", self.rule) }
    }
}

/// An ICMP message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    #[serde(rename = "type")]
    pub kind: u8,
    pub code: u8,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L7 {
    /// `HTTP/1.1`, `HTTP/2`, `gRPC`, `TCP`.
    pub protocol: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// HTTP status that the client saw, 0 if none.
    pub status: u32,
    pub latency_ns: u64,
}

/// `skip_serializing_if` wants a reference.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// `key=value` of each label, just `key` where the value is empty.
pub fn label_list(labels: &Labels) -> Vec<String> {
    let label = |(key, value): (&String, &String)| {
        if value.is_empty() { key.clone() } else { format!("{key}={value}") }
    };
    labels.iter().map(label).collect()
}

/// The newest flows, and everyone who follows them.
#[derive(Clone, Debug)]
pub struct FlowLog {
    ring: Arc<Mutex<VecDeque<Arc<Flow>>>>,
    followers: broadcast::Sender<Arc<Flow>>,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self { ring: Arc::default(), followers: broadcast::Sender::new(FOLLOW_MAX) }
    }
}

impl FlowLog {
    /// Adds a flow; the oldest gives way.
    pub fn push(&self, flow: Flow) {
        let flow = Arc::new(flow);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == RING_MAX {
            ring.pop_front();
        }
        ring.push_back(flow.clone());
        // Under the lock, so that a follower misses none and sees none twice. No follower is no error.
        let _ = self.followers.send(flow);
    }

    /// The last `count` flows that `keep` takes, oldest first, and those to come.
    pub fn last(
        &self,
        count: usize,
        keep: impl Fn(&Flow) -> bool,
    ) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flows: Vec<_> = ring.iter().rev().filter(|flow| keep(flow)).take(count).cloned().collect();
        flows.reverse();
        (flows, self.followers.subscribe())
    }
}

#[cfg(test)]
mod tests;
