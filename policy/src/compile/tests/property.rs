//! decide(compile(p)) equals the naive reading of p.

use std::net::IpAddr;

use abi::{Direction, Verdict, decide, proto};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::naive::{self, Answer};
use super::{add_labelled, add_object, cluster, labels};
use crate::compile;
use crate::l7::HttpRule;
use crate::model::{
    Action, CidrPeer, Entity, Operator, Peer, Peers, PortMatch, PortRule, PortSpec, Requirement, Rule,
    Selector, Source, Tier,
};
use crate::snapshot::{AllowLocalhost, NamedPort, PolicyObject, Snapshot};

const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "198.51.100.0/24",
    "::/0",
    "fd00::/16",
    "fd00:1::/32",
];
const ADDRESSES: [&str; 10] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.1.3.1",
    "10.9.9.9",
    "198.51.100.7",
    "203.0.113.1",
    "fd00:1::7",
    "fd00:2::7",
    "2001:db8::1",
    "10.1.2.200",
];
const PORTS: [u16; 10] = [0, 1, 79, 80, 81, 443, 8000, 8007, 8010, 65535];

fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::collection::vec(select(vec!["a".to_owned(), "b".into(), "c".into()]), 1..3);
    let operator = prop_oneof![
        values().prop_map(Operator::In),
        values().prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
    ];
    let source = prop_oneof![Just(Source::Any), Just(Source::Named("k8s".into()))];
    let requirement = (source, select(vec!["app", "tier"]), operator)
        .prop_map(|(source, key, operator)| Requirement::new(source, key, operator));
    prop::collection::vec(requirement, 0..3).prop_map(|all| Selector { all })
}

/// Peers' selectors name pods only, as parsing makes sure.
fn pod_selector() -> impl Strategy<Value = Selector> {
    selector().prop_map(|mut s| {
        let key = "io.kubernetes.pod.namespace";
        s.all.push(Requirement::new(Source::Named("k8s".into()), key, Operator::Exists));
        s
    })
}

fn block() -> impl Strategy<Value = CidrPeer> {
    let except = prop::collection::vec(select(&BLOCKS[..]), 0..3);
    (select(&BLOCKS[..]), except, any::<bool>()).prop_map(|(cidr, except, pods)| {
        let cidr: ipnet::IpNet = cidr.parse().unwrap();
        let inside = |e: &ipnet::IpNet| cidr.contains(e) && *e != cidr;
        let except = except.iter().map(|e| e.parse().unwrap()).filter(inside).collect();
        CidrPeer { cidr, except, pods }
    })
}

fn peers() -> impl Strategy<Value = Peers> {
    let entity = select(vec![
        Entity::All,
        Entity::World,
        Entity::WorldIpv4,
        Entity::WorldIpv6,
        Entity::Cluster,
        Entity::Host,
        Entity::RemoteNode,
        Entity::None,
        Entity::Health,
    ]);
    let peer = prop_oneof![
        4 => pod_selector().prop_map(Peer::Labels),
        1 => entity.prop_map(Peer::Entity),
        4 => block().prop_map(Peer::Cidr),
    ];
    prop_oneof![1 => Just(Peers::Any), 4 => prop::collection::vec(peer, 0..4).prop_map(Peers::Of)]
}

fn port_rule() -> impl Strategy<Value = PortRule> {
    let number = || prop_oneof![select(&PORTS[1..]), any::<u16>()];
    let name = || select(vec!["http".to_owned(), "dns".into()]);
    let port = prop_oneof![
        1 => Just(PortSpec::Any),
        3 => number().prop_map(|p| PortSpec::Range(p, p)),
        3 => (number(), number()).prop_map(|(a, b)| PortSpec::Range(a.min(b), a.max(b))),
        2 => (name(), prop::option::of(number())).prop_map(|(name, end)| PortSpec::Name(name, end)),
    ];
    let proto = select(vec![proto::TCP, proto::TCP, proto::UDP, proto::SCTP, proto::ICMP]);
    let port = (proto, port).prop_map(|(proto, port)| PortMatch { proto, port });
    (prop::collection::vec(port, 0..4), prop::bool::weighted(0.3)).prop_map(|(mut ports, http)| {
        if http {
            ports.retain(|p| p.proto == proto::TCP);
        }
        let http = http.then(|| vec![HttpRule::default()]);
        PortRule { path: String::new(), ports, http }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![6 => Just(Action::Allow), 3 => Just(Action::Deny), 1 => Just(Action::Refuse)];
    let ports = prop::option::weighted(0.7, prop::collection::vec(port_rule(), 1..4));
    let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
    (selector(), direction, action, prop::bool::weighted(0.8), peers(), ports).prop_map(
        |(subject, direction, action, default_deny, peers, ports)| {
            let mut ports = ports;
            if action != Action::Allow {
                ports.iter_mut().flatten().for_each(|p| p.http = None);
            }
            Rule {
                path: "spec".into(),
                subject,
                direction,
                action,
                tier: Tier::Normal,
                priority: 0,
                default_deny,
                peers,
                ports,
            }
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let label = || select(vec!["a", "b", "c"]);
    let address = prop::sample::subsequence(ADDRESSES.to_vec(), 1..3);
    let number = || select(&PORTS[1..]);
    let pod = (label(), prop::option::of(label()), address, number(), number());
    let pods = prop::collection::vec(pod, 1..5);
    let policies = prop::collection::vec(prop::collection::vec(rule(), 1..4), 0..5);
    (pods, policies, any::<bool>()).prop_map(|(pods, policies, always)| {
        let mut snapshot = cluster();
        if !always {
            snapshot.settings.allow_localhost = AllowLocalhost::Policy;
        }
        let mut taken = std::collections::BTreeSet::new();
        for (i, (app, tier, mut addresses, http, dns)) in pods.into_iter().enumerate() {
            addresses.retain(|a| taken.insert(*a));
            let mut own = labels(&[("app", app)]);
            own.extend(tier.map(|t| ("tier".to_owned(), t.to_owned())));
            let named = |name: &str, port, proto| NamedPort { name: name.into(), port, proto };
            let named = [named("http", http, proto::TCP), named("dns", dns, proto::UDP)];
            add_labelled(&mut snapshot, &format!("default/p{i}"), &own, &addresses, &named);
        }
        for (i, rules) in policies.into_iter().enumerate() {
            let kind = "CiliumNetworkPolicy".to_owned();
            let name = format!("p{i}");
            add_object(
                &mut snapshot,
                PolicyObject { kind, namespace: "default".into(), name, refused: None, rules },
            );
        }
        snapshot
    })
}

fn check(snapshot: &Snapshot, compiled: &crate::CompiledPolicy, port: u16) -> Result<(), TestCaseError> {
    let nodes = ["172.18.0.2", "172.18.0.3"];
    for text in ADDRESSES.iter().chain(&nodes) {
        let address: IpAddr = text.parse().unwrap();
        let other = naive::other(snapshot, address);
        let identity = compiled.lookup(address).unwrap().identity;
        for endpoint in snapshot.endpoints.values() {
            let entries = &compiled.endpoints[&endpoint.id].entries;
            for direction in [Direction::Ingress, Direction::Egress] {
                for proto in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
                    let got = match decide(entries, identity, direction, proto, port).verdict {
                        Verdict::Allow => Answer::Allow,
                        Verdict::Redirect { .. } => Answer::Redirect,
                        Verdict::Drop(_) => Answer::Deny,
                    };
                    let want = naive::read(snapshot, direction, endpoint, other, proto, port);
                    prop_assert_eq!(
                        got,
                        want,
                        "{:?} of {} with {} proto {} port {}",
                        direction,
                        endpoint.name,
                        text,
                        proto,
                        port
                    );
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn compiled_policy_says_what_the_rules_say(
        snapshot in snapshot(),
        ports in prop::collection::vec(any::<u16>(), 4),
    ) {
        let compiled = compile(&snapshot);
        for port in PORTS.into_iter().chain(ports) {
            check(&snapshot, &compiled, port)?;
        }
    }

    /// A compiler that has seen other revisions says the same as one that has not.
    #[test]
    fn memory_changes_nothing(
        snapshots in prop::collection::vec(snapshot(), 3),
        keep in any::<Index>(),
    ) {
        let mut compiler = crate::Compiler::default();
        for i in 0..snapshots.len() {
            // Some policies of the revision before stay, as the very same objects.
            let mut next = snapshots[i].clone();
            if i > 0 {
                let old = &snapshots[i - 1].policies;
                let kept = old.iter().take(keep.index(4));
                next.policies.extend(kept.map(|(k, v)| (k.clone(), v.clone())));
            }
            let compiled = compiler.compile(&next);
            for port in [80, 8007] {
                check(&next, &compiled, port)?;
            }
        }
    }
}
