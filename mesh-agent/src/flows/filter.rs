//! Which flows someone wants to see: by verdict and by either end.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::{Flow, FlowVerdict, Party};

/// All parts that are given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowFilter {
    pub verdict: Option<FlowVerdict>,
    pub from: Option<PartyFilter>,
    pub to: Option<PartyFilter>,
}

impl FlowFilter {
    /// Whether the flow is wanted.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.verdict.is_none_or(|verdict| verdict == flow.verdict)
            && self.from.as_ref().is_none_or(|filter| filter.matches(&flow.source))
            && self.to.as_ref().is_none_or(|filter| filter.matches(&flow.destination))
    }
}

/// A verdict by name, in any case; `allowed` and `denied` are understood too.
impl FromStr for FlowVerdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "forwarded" | "allowed" => Ok(Self::Forwarded),
            "redirected" => Ok(Self::Redirected),
            "dropped" | "denied" => Ok(Self::Dropped),
            _ => Err(format!("verdict {text:?}: use forwarded, redirected or dropped")),
        }
    }
}

/// One end of a flow, as users name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartyFilter {
    /// `namespace/pod`, or the service of that name.
    Name { namespace: String, name: String },
    /// `namespace/`: everything in it.
    Namespace(String),
    /// `10.0.0.1`, `fd00::/64`.
    Net(IpNet),
    /// `identity:1234`.
    Identity(u32),
    /// `key=value`; the `k8s:` prefix may be left out.
    Label { key: String, value: String },
    /// `world`, `host`, ...: label `reserved:NAME`.
    Reserved(String),
}

/// What is meant by each form, for error messages and help.
pub const PARTY_FORMS: &str = "namespace/pod, namespace/service, namespace/, an address or CIDR, key=value, identity:NUMBER, or an entity such as world";

impl FromStr for PartyFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} names no end of a flow: use {PARTY_FORMS}");
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Some(number) = text.strip_prefix("identity:") {
            return number.parse().map(Self::Identity).map_err(|_| bad());
        }
        if let Some((key, value)) = text.split_once('=') {
            return Ok(Self::Label { key: key.into(), value: value.into() });
        }
        let plain =
            |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        match text.split_once('/') {
            Some((address, _)) if address.parse::<IpAddr>().is_ok() => Err(bad()),
            Some((namespace, "")) if plain(namespace) => Ok(Self::Namespace(namespace.into())),
            Some((namespace, name)) if plain(namespace) && plain(name) => {
                Ok(Self::Name { namespace: namespace.into(), name: name.into() })
            }
            None if plain(text) => Ok(Self::Reserved(text.into())),
            _ => Err(bad()),
        }
    }
}

impl PartyFilter {
    /// Whether this end of a flow is meant.
    pub fn matches(&self, party: &Party) -> bool {
        match self {
            Self::Name { namespace, name } => {
                let service = party.service.split_once('/');
                (party.namespace == *namespace && party.name == *name)
                    || service == Some((namespace.as_str(), name.as_str()))
            }
            Self::Namespace(namespace) => {
                let service = party.service.split_once('/');
                party.namespace == *namespace || service.is_some_and(|(ns, _)| ns == namespace)
            }
            Self::Net(net) => party.ip.is_some_and(|ip| net.contains(&ip)),
            Self::Identity(number) => party.identity == *number,
            Self::Label { key, value } => {
                let (full, short) = (format!("k8s:{key}={value}"), format!("{key}={value}"));
                party.labels.iter().any(|label| *label == full || *label == short)
            }
            Self::Reserved(name) => {
                let label = format!("reserved:{name}");
                party.labels.contains(&label)
            }
        }
    }
}

#[cfg(test)]
mod tests;
