use std::collections::BTreeSet;

use abi::{IDENTITY_FIRST, IDENTITY_LAST, IDENTITY_LOCAL_FIRST};

use super::*;
use crate::snapshot::{NamedPort, Namespace};

fn set(text: &str) -> Labels {
    text.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

#[test]
fn one_number_for_one_set() {
    let mut ids = Identities::default();
    let a = ids.assign(&set("k8s:app=a")).unwrap();
    let b = ids.assign(&set("k8s:app=b")).unwrap();
    assert_ne!(a, b);
    assert!((IDENTITY_FIRST..=IDENTITY_LAST).contains(&a));
    assert_eq!(ids.assign(&set("k8s:app=a")).unwrap(), a);
    assert_eq!(Identities::default().assign(&set("k8s:app=a")).unwrap(), a, "another node agrees");
    assert_eq!(ids.labels(a), Some(&set("k8s:app=a")));
    assert_eq!(ids.iter().count(), 2);
}

#[test]
fn numbers_are_stable_for_ever() {
    let mut ids = Identities::default();
    // Reckoned by hand (FNV-1a); a change here renumbers every cluster.
    assert_eq!(ids.assign(&set("k8s:app=web k8s:io.kubernetes.pod.namespace=default")).unwrap(), 6_829_327);
}

#[test]
fn released_numbers_are_not_given_away_until_forgotten() {
    let mut ids = Identities::default();
    let labels = set("k8s:app=a");
    let number = ids.assign(&labels).unwrap();
    ids.release(number);
    assert_eq!(ids.labels(number), None);
    // Another set that hashes to the same place must go on past it.
    assert!(ids.slots.contains_key(&number));
    assert_eq!(ids.assign(&labels).unwrap(), number, "the same set gets it back");
    ids.release(number);
    ids.forget(number);
    assert!(ids.slots.is_empty());
    let used = ids.assign(&labels).unwrap();
    ids.forget(used);
    assert!(ids.labels(used).is_some(), "what is in use is not forgotten");
}

#[test]
fn a_search_passes_over_tombstones() {
    let mut ids = Identities::default();
    let (a, b) = (set("k8s:app=a"), set("k8s:app=b"));
    let first = probe(&b).next().unwrap();
    // `a` sits where `b` hashes to, so `b` goes to the next number; then `a` leaves.
    ids.slots.insert(first, Slot::Used(a));
    let number = ids.assign(&b).unwrap();
    assert_eq!(number, probe(&b).nth(1).unwrap());
    ids.release(first);
    assert_eq!(ids.assign(&b).unwrap(), number, "found behind the tombstone");
    ids.forget(first);
    assert!(ids.slots.contains_key(&first), "b would not be found any more");
}

#[test]
fn assignments_survive_serialisation() {
    let mut ids = Identities::default();
    let number = ids.assign(&set("k8s:app=a")).unwrap();
    ids.release(number);
    ids.assign(&set("k8s:app=b")).unwrap();
    let text = serde_json::to_string(&ids).unwrap();
    assert_eq!(serde_json::from_str::<Identities>(&text).unwrap(), ids);
}

#[test]
fn pods_have_ciliums_labels() {
    let namespace =
        Namespace { name: "shop".into(), labels: set("kubernetes.io/metadata.name=shop team=red") };
    let pod = set("app=web app.kubernetes.io/name=web pod-template-hash=abc controller-revision-hash=x \
         statefulset.kubernetes.io/pod-name=web-0 io.kubernetes.pod.namespace=forged \
         io.cilium.k8s.policy.cluster=forged io.cilium.k8s.namespace.labels.team=forged k8s.io/x=y \
         beta.kubernetes.io/os=linux example.com/team=blue");
    let ports = [
        NamedPort { name: "http".into(), port: 8080, proto: 6 },
        NamedPort { name: "dns".into(), port: 53, proto: 17 },
    ];
    let expected = set("gen:io.cilium.k8s.named-ports=dns.UDP.53_http.TCP.8080 \
         k8s:app=web k8s:app.kubernetes.io/name=web k8s:example.com/team=blue \
         k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop \
         k8s:io.cilium.k8s.namespace.labels.team=red k8s:io.cilium.k8s.policy.cluster=default \
         k8s:io.cilium.k8s.policy.serviceaccount=default k8s:io.kubernetes.pod.namespace=shop");
    assert_eq!(pod_labels("", &namespace, "", &pod, &ports), expected);
}

#[test]
fn long_lists_of_ports_take_several_labels() {
    let namespace = Namespace { name: "a".into(), labels: Labels::new() };
    let ports: Vec<NamedPort> =
        (0..9).map(|i| NamedPort { name: format!("long-name-{i}"), port: 60000 + i, proto: 6 }).collect();
    let labels = pod_labels("", &namespace, "", &Labels::new(), &ports);
    let values: Vec<&String> = labels.iter().filter(|(k, _)| k.starts_with("gen:")).map(|(_, v)| v).collect();
    assert_eq!(values.len(), 5);
    assert!(values.iter().all(|v| v.len() <= 63));
}

#[test]
fn local_numbers_stay_while_in_use() {
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    let mut local = LocalIdentities::default();
    local.keep(&names(&["cidr:10.0.0.0/8", "cidr:192.0.2.0/24"]));
    let number = local.number("cidr:10.0.0.0/8").unwrap();
    assert!(number >= IDENTITY_LOCAL_FIRST);
    local.keep(&names(&["cidr:10.0.0.0/8", "cidr:10.1.0.0/16"]));
    assert_eq!(local.number("cidr:10.0.0.0/8"), Some(number));
    assert_eq!(local.number("cidr:192.0.2.0/24"), None);
    let mut other = LocalIdentities::default();
    other.keep(&names(&["cidr:10.0.0.0/8"]));
    assert_eq!(other.number("cidr:10.0.0.0/8"), Some(number), "the same after a restart");
}

#[test]
fn reserved_names() {
    assert_eq!(reserved_name(1), Some("host"));
    assert_eq!(reserved_number("world-ipv6"), Some(10));
    assert_eq!(reserved_number("all"), None);
    assert!(reserved_labels(7).unwrap().contains_key("reserved:remote-node"));
}
