//! The identities that have a name instead of labels.

use abi::*;

use crate::snapshot::Labels;

const NAMES: [(u32, &str); 10] = [
    (IDENTITY_HOST, "host"),
    (IDENTITY_WORLD, "world"),
    (IDENTITY_UNMANAGED, "unmanaged"),
    (IDENTITY_HEALTH, "health"),
    (IDENTITY_INIT, "init"),
    (IDENTITY_REMOTE_NODE, "remote-node"),
    (IDENTITY_KUBE_APISERVER, "kube-apiserver"),
    (IDENTITY_INGRESS, "ingress"),
    (IDENTITY_WORLD_IPV4, "world-ipv4"),
    (IDENTITY_WORLD_IPV6, "world-ipv6"),
];

/// The name of a reserved identity.
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
}

/// The reserved identity of this name.
pub fn named(name: &str) -> Option<u32> {
    NAMES.iter().find(|(_, n)| *n == name).map(|(number, _)| *number)
}

/// Its labels. 7 is a remote node on which the API server runs.
pub(crate) fn labels(number: u32) -> Option<Labels> {
    let own = name(number)?;
    let mut labels = Labels::from([(format!("reserved:{own}"), String::new())]);
    if number == IDENTITY_KUBE_APISERVER {
        labels.insert("reserved:remote-node".into(), String::new());
    }
    Some(labels)
}

/// Every reserved number.
pub(crate) fn numbers() -> impl Iterator<Item = u32> {
    NAMES.iter().map(|(number, _)| *number)
}
