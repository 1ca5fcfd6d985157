//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use abi::Direction;
use serde_json::Value;

use super::ports::Place;
use super::raw::{self, RawDnsName, RawRule, RawSelector, RawSpec};
use super::refusal::{Fault, ObjectRef};
use super::selector::{CLUSTER, NAMESPACE, NAMESPACE_LABELS, Requirement, Selector};
use super::{Action, CNP, Entity, Peer, Peers, Rule, Tier, cidr, icmp, ports};

/// Longest `log.value`, in bytes.
const LOG_MAX: usize = 32;

/// What all rules of one spec share.
struct Spec<'a> {
    path: &'a str,
    /// Empty for a cluster-wide policy.
    namespace: &'a str,
    subject: Selector,
    host: bool,
    ingress_default_deny: bool,
    egress_default_deny: bool,
}

pub(super) fn parse(object: &ObjectRef, manifest: &Value) -> Result<Vec<Rule>, Fault> {
    let raw = raw::read::<RawSpec>(manifest, "cilium.io/v2")?;
    if object.name.is_empty() {
        return Err(Fault::new("metadata.name", "must be given"));
    }
    if raw.spec.is_none() && raw.specs.as_ref().is_none_or(Vec::is_empty) {
        return Err(Fault::new("spec", "spec or specs must be given"));
    }
    let mut rules = Vec::new();
    // What is right but not enforced is reported last: a mistake is the more urgent message.
    let mut pending = None;
    if let Some(spec) = &raw.spec {
        read_spec(object, spec, "spec", &mut rules, &mut pending)?;
    }
    for (i, spec) in raw.specs.iter().flatten().enumerate() {
        read_spec(object, spec, &format!("specs[{i}]"), &mut rules, &mut pending)?;
    }
    pending.map_or(Ok(rules), Err)
}

fn read_spec(
    object: &ObjectRef,
    raw: &RawSpec,
    path: &str,
    rules: &mut Vec<Rule>,
    pending: &mut Option<Fault>,
) -> Result<(), Fault> {
    let namespace = object.namespace.as_str();
    let (subject, host) = match (&raw.endpoint_selector, &raw.node_selector) {
        (Some(_), Some(_)) => {
            return Err(Fault::new(path, "endpointSelector and nodeSelector exclude each other"));
        }
        (None, None) => return Err(Fault::new(path, "endpointSelector must be given")),
        (Some(selector), None) => {
            let subject = Selector::read(selector, &format!("{path}.endpointSelector"), false)?;
            let bound = !namespace.is_empty();
            (if bound { subject.in_namespace(namespace) } else { subject }, false)
        }
        (None, Some(selector)) => {
            let at = format!("{path}.nodeSelector");
            if object.kind == CNP {
                let reason = "possible in a CiliumClusterwideNetworkPolicy only";
                return Err(Fault::new(at, reason));
            }
            let subject = Selector::read(selector, &at, false)?;
            pending.get_or_insert(Fault::not_enforced(at));
            (subject, true)
        }
    };
    let lists = [
        ("ingress", &raw.ingress, Direction::Ingress, Action::Allow),
        ("ingressDeny", &raw.ingress_deny, Direction::Ingress, Action::Deny),
        ("egress", &raw.egress, Direction::Egress, Action::Allow),
        ("egressDeny", &raw.egress_deny, Direction::Egress, Action::Deny),
    ];
    if lists.iter().all(|(_, list, ..)| list.as_ref().is_none_or(Vec::is_empty)) {
        let reason = "at least one of ingress, ingressDeny, egress, egressDeny must have a rule";
        return Err(Fault::new(path, reason));
    }
    let log = raw.log.as_ref().and_then(|log| log.value.as_deref()).unwrap_or("");
    if log.len() > LOG_MAX || log.chars().any(char::is_control) {
        let reason = format!("at most {LOG_MAX} bytes, without control characters");
        return Err(Fault::new(format!("{path}.log.value"), reason));
    }
    let spec = Spec {
        path,
        namespace,
        subject,
        host,
        ingress_default_deny: raw.enable_default_deny.ingress.unwrap_or(true),
        egress_default_deny: raw.enable_default_deny.egress.unwrap_or(true),
    };
    for (field, list, direction, action) in lists {
        for (i, rule) in list.iter().flatten().enumerate() {
            let path = format!("{}.{field}[{i}]", spec.path);
            rules.push(read_rule(&spec, rule, path, direction, action, pending)?);
        }
    }
    Ok(())
}

fn read_rule(
    spec: &Spec<'_>,
    raw: &RawRule,
    path: String,
    direction: Direction,
    action: Action,
    pending: &mut Option<Fault>,
) -> Result<Rule, Fault> {
    let deny = action == Action::Deny;
    refuse_misplaced(raw, &path, direction, deny)?;
    let peers = read_peers(spec, raw, &path, direction, pending)?;
    let icmps = raw.icmps.as_deref().unwrap_or_default();
    let to_ports = raw.to_ports.as_deref().unwrap_or_default();
    if !icmps.is_empty() && !to_ports.is_empty() {
        let reason = "not possible together with toPorts; write two rules";
        return Err(Fault::new(format!("{path}.icmps"), reason));
    }
    let place = Place { direction, deny, host: spec.host };
    let mut list = ports::read(to_ports, place, &format!("{path}.toPorts"), pending)?;
    list.extend(icmp::read(icmps, &format!("{path}.icmps"))?);
    if let Some(authentication) = &raw.authentication {
        let at = format!("{path}.authentication.mode");
        match authentication.mode.as_str() {
            "disabled" => {}
            "required" | "test-always-fail" => {
                pending.get_or_insert(Fault::not_enforced(at));
            }
            other => {
                let reason = format!("{other:?} is not one of disabled, required, test-always-fail");
                return Err(Fault::new(at, reason));
            }
        }
    }
    // A rule that names neither peers nor ports selects nothing; all it does is the default deny.
    let ports = if list.is_empty() { None } else { Some(list) };
    let (peers, ports) = match (peers, ports) {
        (None, None) => (Peers::Of(Vec::new()), None),
        (None, ports) => (Peers::Any, ports),
        (Some(peers), ports) => (Peers::Of(peers), ports),
    };
    let default_deny = match direction {
        Direction::Ingress => spec.ingress_default_deny,
        Direction::Egress => spec.egress_default_deny,
    };
    Ok(Rule {
        path,
        subject: spec.subject.clone(),
        direction,
        action,
        tier: Tier::Normal,
        priority: 0,
        default_deny,
        peers,
        ports,
    })
}

/// Fields that exist, but not in this kind of rule.
fn refuse_misplaced(raw: &RawRule, path: &str, direction: Direction, deny: bool) -> Result<(), Fault> {
    let ingress = [
        ("fromEndpoints", raw.from_endpoints.is_some()),
        ("fromCIDR", raw.from_cidr.is_some()),
        ("fromCIDRSet", raw.from_cidr_set.is_some()),
        ("fromEntities", raw.from_entities.is_some()),
        ("fromNodes", raw.from_nodes.is_some()),
        ("fromGroups", raw.from_groups.is_some()),
        ("fromRequires", raw.from_requires.is_some()),
    ];
    let egress = [
        ("toEndpoints", raw.to_endpoints.is_some()),
        ("toCIDR", raw.to_cidr.is_some()),
        ("toCIDRSet", raw.to_cidr_set.is_some()),
        ("toEntities", raw.to_entities.is_some()),
        ("toNodes", raw.to_nodes.is_some()),
        ("toGroups", raw.to_groups.is_some()),
        ("toRequires", raw.to_requires.is_some()),
        ("toServices", raw.to_services.is_some()),
        ("toFQDNs", raw.to_fqdns.is_some()),
    ];
    let (foreign, side): (&[_], _) = match direction {
        Direction::Ingress => (&egress, "unknown in an ingress rule"),
        Direction::Egress => (&ingress, "unknown in an egress rule"),
    };
    if let Some((field, _)) = foreign.iter().find(|(_, there)| *there) {
        return Err(Fault::new(format!("{path}.{field}"), side));
    }
    if deny && raw.to_fqdns.is_some() {
        return Err(Fault::new(format!("{path}.toFQDNs"), "unknown in a deny rule"));
    }
    if deny && raw.authentication.is_some() {
        return Err(Fault::new(format!("{path}.authentication"), "unknown in a deny rule"));
    }
    for (field, there) in
        [("fromRequires", raw.from_requires.is_some()), ("toRequires", raw.to_requires.is_some())]
    {
        if there {
            let reason = "no longer part of the API; write its requirements into the peers' selectors";
            return Err(Fault::new(format!("{path}.{field}"), reason));
        }
    }
    Ok(())
}

/// The peers that a rule names; `None` if it names none, an empty list if it names nobody.
fn read_peers(
    spec: &Spec<'_>,
    raw: &RawRule,
    path: &str,
    direction: Direction,
    pending: &mut Option<Fault>,
) -> Result<Option<Vec<Peer>>, Fault> {
    let way = if direction == Direction::Ingress { "from" } else { "to" };
    let (endpoints, entities, nodes) = match direction {
        Direction::Ingress => (&raw.from_endpoints, &raw.from_entities, &raw.from_nodes),
        Direction::Egress => (&raw.to_endpoints, &raw.to_entities, &raw.to_nodes),
    };
    let (cidrs, sets, groups) = match direction {
        Direction::Ingress => (&raw.from_cidr, &raw.from_cidr_set, &raw.from_groups),
        Direction::Egress => (&raw.to_cidr, &raw.to_cidr_set, &raw.to_groups),
    };

    let there = [
        (format!("{way}Endpoints"), endpoints.as_ref().map(Vec::len)),
        (format!("{way}CIDR"), cidrs.as_ref().map(Vec::len)),
        (format!("{way}CIDRSet"), sets.as_ref().map(Vec::len)),
        (format!("{way}Entities"), entities.as_ref().map(Vec::len)),
        (format!("{way}Nodes"), nodes.as_ref().map(Vec::len)),
        (format!("{way}Groups"), groups.as_ref().map(Vec::len)),
        ("toServices".to_owned(), raw.to_services.as_ref().map(Vec::len)),
        ("toFQDNs".to_owned(), raw.to_fqdns.as_ref().map(Vec::len)),
    ];
    let mut named = there.iter().filter(|(_, len)| len.is_some());
    if let (Some((a, _)), Some((b, _))) = (named.next(), named.next()) {
        let reason = format!("not possible together with {a}; write two rules");
        return Err(Fault::new(format!("{path}.{b}"), reason));
    }
    let Some((field, _)) = there.iter().find(|(_, len)| len.is_some()) else { return Ok(None) };
    let path = format!("{path}.{field}");
    let at = |i: usize| format!("{path}[{i}]");

    let mut peers = Vec::new();
    for (i, selector) in endpoints.iter().flatten().enumerate() {
        peers.push(Peer::Labels(peer_selector(spec, selector, &at(i))?));
    }
    for (i, text) in cidrs.iter().flatten().enumerate() {
        let cidr = cidr::read(text, &at(i))?;
        peers.push(Peer::Cidr(super::CidrPeer { cidr, except: Vec::new(), pods: false }));
    }
    for (i, set) in sets.iter().flatten().enumerate() {
        peers.extend(cidr::read_set(set, &at(i), pending)?.map(Peer::Cidr));
    }
    for (i, name) in entities.iter().flatten().enumerate() {
        let entity = Entity::named(name).ok_or_else(|| {
            Fault::new(at(i), format!("{name:?} is no entity; known are {}", Entity::names()))
        })?;
        peers.push(Peer::Entity(entity));
    }
    for (i, selector) in nodes.iter().flatten().enumerate() {
        Selector::read(selector, &at(i), false)?;
    }
    if nodes.is_some() || groups.is_some() {
        pending.get_or_insert(Fault::not_enforced(&path));
    }
    check_services(raw, &path, pending)?;
    for (i, name) in raw.to_fqdns.iter().flatten().enumerate() {
        check_dns_name(name, &at(i))?;
    }
    if raw.to_fqdns.is_some() {
        pending.get_or_insert(Fault::not_enforced(&path));
    }
    Ok(Some(peers))
}

fn check_services(raw: &RawRule, path: &str, pending: &mut Option<Fault>) -> Result<(), Fault> {
    let Some(services) = &raw.to_services else { return Ok(()) };
    for (i, service) in services.iter().enumerate() {
        let at = format!("{path}[{i}]");
        if service.k8s_service.is_some() == service.k8s_service_selector.is_some() {
            return Err(Fault::new(at, "needs exactly one of k8sService, k8sServiceSelector"));
        }
        if let Some(name) = &service.k8s_service
            && name.service_name.as_deref().unwrap_or("").is_empty()
        {
            return Err(Fault::new(format!("{at}.k8sService.serviceName"), "must be given"));
        }
        if let Some(selector) = &service.k8s_service_selector {
            Selector::read(&selector.selector, &format!("{at}.k8sServiceSelector.selector"), false)?;
        }
    }
    pending.get_or_insert(Fault::not_enforced(path));
    Ok(())
}

/// A peer's selector: of the policy's own namespace unless it names one or a label of one; of pods only,
/// unless it names a `reserved:` label.
fn peer_selector(spec: &Spec<'_>, raw: &RawSelector, path: &str) -> Result<Selector, Fault> {
    let mut selector = Selector::read(raw, path, false)?;
    if selector.names_reserved() {
        return Ok(selector);
    }
    let init = spec.subject.names_reserved_as("init");
    if !selector.names(NAMESPACE) {
        if spec.namespace.is_empty() {
            if !init {
                selector.all.push(Requirement::k8s_exists(NAMESPACE));
            }
        } else if !selector.names_below(NAMESPACE_LABELS) {
            selector.all.push(Requirement::namespace(spec.namespace));
        }
    }
    if !selector.names(CLUSTER) {
        selector.all.push(Requirement::k8s_exists(CLUSTER));
    }
    Ok(selector)
}

impl Entity {
    const NAMES: [(&'static str, Self); 13] = [
        ("all", Self::All),
        ("world", Self::World),
        ("world-ipv4", Self::WorldIpv4),
        ("world-ipv6", Self::WorldIpv6),
        ("cluster", Self::Cluster),
        ("host", Self::Host),
        ("remote-node", Self::RemoteNode),
        ("kube-apiserver", Self::KubeApiserver),
        ("health", Self::Health),
        ("init", Self::Init),
        ("ingress", Self::Ingress),
        ("unmanaged", Self::Unmanaged),
        ("none", Self::None),
    ];

    /// The entity of this name.
    pub fn named(name: &str) -> Option<Self> {
        // One cluster is all there is: its mesh is the cluster.
        let name = if name == "cluster-mesh" { "cluster" } else { name };
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, entity)| *entity)
    }

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, e)| *e == self).map_or("none", |(name, _)| name)
    }

    fn names() -> String {
        Self::NAMES.map(|(name, _)| name).join(", ")
    }
}

/// Checks an element of `toFQDNs` or `rules.dns`.
pub(super) fn check_dns_name(raw: &RawDnsName, path: &str) -> Result<(), Fault> {
    match (&raw.match_name, &raw.match_pattern) {
        (Some(name), None) if name.contains('*') => {
            Err(Fault::new(format!("{path}.matchName"), "takes no '*'; write matchPattern"))
        }
        (Some(name), None) => check_pattern(name, &format!("{path}.matchName")),
        (None, Some(pattern)) => check_pattern(pattern, &format!("{path}.matchPattern")),
        _ => Err(Fault::new(path, "needs exactly one of matchName, matchPattern")),
    }
}

/// A DNS name that may contain `*`.
pub(super) fn check_pattern(text: &str, path: &str) -> Result<(), Fault> {
    let char_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*' | b'.');
    let dots_ok = !text.starts_with('.') && !text.contains("..");
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(char_ok) && dots_ok {
        return Ok(());
    }
    Err(Fault::new(path, format!("{text:?} is not a DNS name or pattern")))
}
