//! The policy of one endpoint.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use abi::{Direction, IDENTITY_HOST, MAX_POLICY_ENTRIES, PolicyEntry, PolicyKey, proto};

use super::entries::{Claim, Flat, flatten};
use super::numbers::RuleNumbers;
use super::peers::Peers;
use super::resolve::Resolved;
use crate::compiled::{EndpointPolicy, RuleRef};
use crate::l7::{HttpRule, L7RuleSet};
use crate::model::{self, Action, PortMatch, PortSpec, Tier};
use crate::precedence::{self, Class};
use crate::snapshot::{AllowLocalhost, Enforcement, NamedPort, Settings};

/// Numbers of the rules that nobody wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct BuiltIn {
    default_allow: u32,
    allow_localhost: u32,
}

impl BuiltIn {
    pub(super) fn new(numbers: &mut RuleNumbers) -> Self {
        let mut number = |name: &str| {
            let (namespace, path) = (String::new(), String::new());
            let kind = model::BUILT_IN.to_owned();
            numbers.number(RuleRef { kind, namespace, name: name.to_owned(), path })
        };
        Self { default_allow: number("default-allow"), allow_localhost: number("allow-localhost") }
    }
}

/// Peers (`None`: any) and the ports, first and last, that a rule names for them. Borrowed where they are the
/// rule's own: there may be thousands, for each of thousands of ports.
type Reach<'r> = (Option<Cow<'r, BTreeSet<u32>>>, (u16, u16));

/// What may become a layer 7 rule set; few do, so nothing is copied before that is known.
struct Candidate<'r> {
    direction: Direction,
    reach: Reach<'r>,
    rule: u32,
    http: &'r [HttpRule],
}

/// Builds the policy of one endpoint.
#[derive(Debug)]
pub(super) struct Build<'a> {
    settings: &'a Settings,
    peers: &'a Peers,
    built_in: BuiltIn,
    claims: Vec<Claim>,
    index: HashMap<Claim, u32>,
    /// Claims by peer, 0 = any.
    by_peer: BTreeMap<u32, Vec<u32>>,
    entries: Vec<(PolicyKey, PolicyEntry)>,
    l7: Vec<L7RuleSet>,
}

impl<'a> Build<'a> {
    pub(super) fn new(settings: &'a Settings, peers: &'a Peers, built_in: BuiltIn) -> Self {
        Self {
            settings,
            peers,
            built_in,
            claims: Vec::new(),
            index: HashMap::new(),
            by_peer: BTreeMap::new(),
            entries: Vec::new(),
            l7: Vec::new(),
        }
    }

    /// The policy of endpoints that these rules select and that have these named ports.
    pub(super) fn policy(mut self, own: &[&Resolved<'_>], named_ports: &[NamedPort]) -> EndpointPolicy {
        for direction in [Direction::Ingress, Direction::Egress] {
            self.direction(direction, own, named_ports);
        }
        // Sorted and put in at once: maps of thousands of entries are built often.
        EndpointPolicy { entries: self.entries.into_iter().collect(), l7: self.l7 }
    }

    fn direction(&mut self, direction: Direction, own: &[&Resolved<'_>], named_ports: &[NamedPort]) {
        let own: Vec<&&Resolved<'_>> = own.iter().filter(|r| r.rule.direction == direction).collect();
        let closed =
            self.settings.enforcement == Enforcement::Always || own.iter().any(|r| r.rule.default_deny);
        let mut sets = Vec::new();
        for resolved in &own {
            self.rule(resolved, named_ports, &mut sets);
        }
        if !closed {
            let rule = self.built_in.default_allow;
            self.claim(None, None, (0, u16::MAX), Tier::Default, 0, Class::Allow, rule);
            sets.push(Candidate { direction, reach: (None, (0, u16::MAX)), rule, http: &[] });
        }
        if direction == Direction::Ingress && self.settings.allow_localhost == AllowLocalhost::Always {
            let rule = self.built_in.allow_localhost;
            let host = BTreeSet::from([IDENTITY_HOST]);
            let class = Class::AllowLocalhost;
            self.claim(Some(&host), None, (0, u16::MAX), Tier::Normal, 0, class, rule);
        }
        self.write(direction);
        self.l7.extend(with_layer_7(sets));
    }

    fn rule<'r>(
        &mut self,
        resolved: &'r Resolved<'_>,
        named_ports: &[NamedPort],
        sets: &mut Vec<Candidate<'r>>,
    ) {
        let rule = resolved.rule;
        let peers = resolved.peers.as_deref();
        if peers.is_some_and(BTreeSet::is_empty) {
            return;
        }
        let plain = match rule.action {
            Action::Allow => Class::Allow,
            Action::Deny => Class::Deny,
            Action::Refuse => Class::Refuse,
        };
        let Some(ports) = &rule.ports else {
            let [number] = resolved.numbers[..] else { return };
            self.claim(peers, None, (0, u16::MAX), rule.tier, rule.priority, plain, number);
            if rule.action == Action::Allow {
                let reach = (peers.map(Cow::Borrowed), (0, u16::MAX));
                sets.push(Candidate { direction: rule.direction, reach, rule: number, http: &[] });
            }
            return;
        };
        for (part, number) in ports.iter().zip(&resolved.numbers) {
            let class = if part.http.is_some() { Class::RedirectStrict } else { plain };
            for port in &part.ports {
                for reach in self.ports(rule.direction, port, peers, named_ports) {
                    let (peers, range) = (reach.0.as_deref(), reach.1);
                    let proto = Some(port.proto);
                    self.claim(peers, proto, range, rule.tier, rule.priority, class, *number);
                    if rule.action == Action::Allow && port.proto == proto::TCP {
                        let http = part.http.as_deref().unwrap_or_default();
                        sets.push(Candidate { direction: rule.direction, reach, rule: *number, http });
                    }
                }
            }
        }
    }

    /// The ranges that a port stands for, each with the peers it holds for. A name is looked up in the
    /// endpoint's own ports on ingress, in each peer's on egress.
    fn ports<'r>(
        &self,
        direction: Direction,
        port: &PortMatch,
        peers: Option<&'r BTreeSet<u32>>,
        named_ports: &[NamedPort],
    ) -> Vec<Reach<'r>> {
        let own = || peers.map(Cow::Borrowed);
        let (name, end) = match &port.port {
            PortSpec::Any => return vec![(own(), (0, u16::MAX))],
            PortSpec::Range(first, last) => return vec![(own(), (*first, *last))],
            PortSpec::Name(name, end) => (name, *end),
        };
        match direction {
            Direction::Ingress => named_ports
                .iter()
                .filter(|p| p.proto == port.proto && p.name.eq_ignore_ascii_case(name))
                .map(|p| (own(), (p.port, end.unwrap_or(p.port).max(p.port))))
                .collect(),
            Direction::Egress => {
                let mut by_port: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
                for (identity, info) in &self.peers.table {
                    if peers.is_some_and(|p| !p.contains(identity)) {
                        continue;
                    }
                    for (own, proto, number) in &info.named_ports {
                        if own == name && *proto == port.proto {
                            by_port.entry(*number).or_default().insert(*identity);
                        }
                    }
                }
                by_port.into_iter().map(|(port, ids)| (Some(Cow::Owned(ids)), (port, port))).collect()
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // one call per column of a claim; a struct would repeat Claim
    fn claim(
        &mut self,
        peers: Option<&BTreeSet<u32>>,
        proto: Option<u8>,
        ports: (u16, u16),
        tier: Tier,
        priority: u16,
        class: Class,
        rule: u32,
    ) {
        let precedence = precedence::of(tier, priority, class);
        let claim = Claim { proto, ports, precedence, class, rule };
        let next = self.claims.len() as u32;
        let at = *self.index.entry(claim).or_insert(next);
        if at == next {
            self.claims.push(claim);
        }
        match peers {
            None => self.by_peer.entry(0).or_default().push(at),
            Some(peers) => {
                for peer in peers {
                    self.by_peer.entry(*peer).or_default().push(at);
                }
            }
        }
    }

    /// Writes what was claimed for one direction; peers with the same claims are worked out once.
    fn write(&mut self, direction: Direction) {
        let mut flat: HashMap<Vec<u32>, Vec<Flat>> = HashMap::new();
        for (peer, list) in std::mem::take(&mut self.by_peer) {
            let entries = flat.entry(list).or_insert_with_key(|list| {
                let claims: Vec<Claim> = list.iter().map(|i| self.claims[*i as usize]).collect();
                flatten(&claims)
            });
            self.entries.extend(entries.iter().map(|f| (key(peer, direction, f), f.entry)));
            // More is too many whatever comes: the caller denies all and says so.
            if self.entries.len() > MAX_POLICY_ENTRIES as usize {
                return;
            }
        }
    }
}

fn key(peer: u32, direction: Direction, flat: &Flat) -> PolicyKey {
    match flat.proto {
        None => PolicyKey::peer(peer, direction),
        Some(proto) => PolicyKey::ports(peer, direction, proto, flat.port, flat.bits),
    }
}

/// The sets that matter at layer 7: those with rules, and plain ones for some of the same ports.
fn with_layer_7(candidates: Vec<Candidate<'_>>) -> Vec<L7RuleSet> {
    let http: Vec<_> = candidates.iter().filter(|c| !c.http.is_empty()).map(|c| c.reach.1).collect();
    let meets = |a: (u16, u16)| http.iter().any(|b| a.0 <= b.1 && b.0 <= a.1);
    let kept = candidates.into_iter().filter(|c| meets(c.reach.1));
    kept.map(|Candidate { direction, reach: (peers, ports), rule, http }| {
        let peers = peers.map(Cow::into_owned);
        L7RuleSet { direction, peers, ports, rule, http: http.to_vec() }
    })
    .collect()
}
