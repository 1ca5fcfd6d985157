//! Ports and protocols, and what hangs on them: layer 7 rules, TLS, server names, listeners.

use abi::{Direction, proto};

use super::raw::{RawL7, RawPort, RawPortRule};
use super::refusal::Fault;
use super::{PortMatch, PortRule, PortSpec, http};

/// Most ports of one element of `toPorts`, and most types of one of `icmps`.
pub(super) const PORTS_MAX: usize = 40;

/// What a rule allows to hang on its ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) direction: Direction,
    pub(super) deny: bool,
    pub(super) host: bool,
}

/// Reads `toPorts`.
pub(super) fn read(
    rules: &[RawPortRule],
    place: Place,
    path: &str,
    pending: &mut Option<Fault>,
) -> Result<Vec<PortRule>, Fault> {
    let rules = rules.iter().enumerate();
    rules.map(|(i, rule)| read_rule(rule, place, &format!("{path}[{i}]"), pending)).collect()
}

fn read_rule(
    raw: &RawPortRule,
    place: Place,
    path: &str,
    pending: &mut Option<Fault>,
) -> Result<PortRule, Fault> {
    if raw.ports.len() > PORTS_MAX {
        let reason = format!("{} ports, the most is {PORTS_MAX}", raw.ports.len());
        return Err(Fault::new(format!("{path}.ports"), reason));
    }
    let mut ports = Vec::new();
    for (i, port) in raw.ports.iter().enumerate() {
        ports.extend(read_port(port, &format!("{path}.ports[{i}]"))?);
    }
    if place.deny {
        refuse_in_deny(raw, path)?;
    }
    let http = match &raw.rules {
        Some(rules) => read_l7(raw, rules, place, path, pending)?,
        None => None,
    };
    read_names(raw, place, path, pending)?;
    Ok(PortRule { path: path.to_owned(), ports, http })
}

fn refuse_in_deny(raw: &RawPortRule, path: &str) -> Result<(), Fault> {
    let fields = [
        ("rules", raw.rules.is_some()),
        ("serverNames", raw.server_names.is_some()),
        ("terminatingTLS", raw.terminating_tls.is_some()),
        ("originatingTLS", raw.originating_tls.is_some()),
        ("listener", raw.listener.is_some()),
    ];
    match fields.iter().find(|(_, there)| *there) {
        Some((field, _)) => {
            let reason = "a deny rule takes ports only; it would deny more than it says";
            Err(Fault::new(format!("{path}.{field}"), reason))
        }
        None => Ok(()),
    }
}

fn read_l7(
    raw: &RawPortRule,
    rules: &RawL7,
    place: Place,
    path: &str,
    pending: &mut Option<Fault>,
) -> Result<Option<Vec<crate::l7::HttpRule>>, Fault> {
    let path = format!("{path}.rules");
    let kinds = [rules.http.is_some(), rules.kafka.is_some(), rules.dns.is_some()];
    if kinds.iter().filter(|k| **k).count() != 1 {
        return Err(Fault::new(path, "needs exactly one of http, kafka, dns"));
    }
    let is_dns = rules.dns.is_some();
    for (i, port) in raw.ports.iter().enumerate() {
        let at = path.trim_end_matches(".rules");
        let at = format!("{at}.ports[{i}]");
        let protocol = port.protocol.as_deref().unwrap_or("ANY");
        if !is_dns && protocol != "TCP" {
            let reason = format!("layer 7 rules need protocol TCP, not {protocol}");
            return Err(Fault::new(format!("{at}.protocol"), reason));
        }
        if port.port.as_deref() == Some("0") {
            return Err(Fault::new(format!("{at}.port"), "layer 7 rules need a port, not 0 (any)"));
        }
        if is_dns && port.end_port.is_some_and(|e| e != 0) {
            return Err(Fault::new(format!("{at}.endPort"), "dns rules do not take port ranges"));
        }
    }
    if place.host {
        return Err(Fault::new(path, "layer 7 rules are not possible on hosts"));
    }
    if let Some(dns) = &rules.dns {
        if place.direction == Direction::Ingress {
            return Err(Fault::new(format!("{path}.dns"), "dns rules are possible on egress only"));
        }
        if raw.ports.is_empty() {
            return Err(Fault::new(path.replace(".rules", ".ports"), "dns rules need port 53"));
        }
        for (i, name) in dns.iter().enumerate() {
            super::cnp::check_dns_name(name, &format!("{path}.dns[{i}]"))?;
        }
        pending.get_or_insert(Fault::not_enforced(format!("{path}.dns")));
    }
    if let Some(kafka) = &rules.kafka {
        for (i, rule) in kafka.iter().enumerate() {
            http::check_kafka(rule, &format!("{path}.kafka[{i}]"))?;
        }
        pending.get_or_insert(Fault::not_enforced(format!("{path}.kafka")));
    }
    let Some(list) = &rules.http else { return Ok(None) };
    let list = http::read(list, &format!("{path}.http"), pending)?;
    // An empty list is no layer 7 rule, as in Cilium.
    Ok((!list.is_empty()).then_some(list))
}

/// Checks `serverNames`, the TLS contexts and `listener`.
fn read_names(raw: &RawPortRule, place: Place, path: &str, pending: &mut Option<Fault>) -> Result<(), Fault> {
    if let Some(names) = &raw.server_names {
        let at = format!("{path}.serverNames");
        if names.is_empty() {
            return Err(Fault::new(at, "needs at least one name"));
        }
        for (i, name) in names.iter().enumerate() {
            super::cnp::check_pattern(name, &format!("{at}[{i}]"))?;
        }
        if raw.rules.is_some() && raw.terminating_tls.is_none() {
            let reason = "together with layer 7 rules it needs terminatingTLS";
            return Err(Fault::new(at, reason));
        }
        pending.get_or_insert(Fault::not_enforced(at));
    }
    let contexts = [("terminatingTLS", &raw.terminating_tls), ("originatingTLS", &raw.originating_tls)];
    for (field, context) in contexts {
        let Some(context) = context else { continue };
        if context.secret.name.is_empty() {
            return Err(Fault::new(format!("{path}.{field}.secret.name"), "must not be empty"));
        }
        pending.get_or_insert(Fault::not_enforced(format!("{path}.{field}")));
    }
    let Some(listener) = &raw.listener else { return Ok(()) };
    let at = format!("{path}.listener");
    if place.direction == Direction::Ingress {
        return Err(Fault::new(at, "listeners are possible on egress only"));
    }
    if raw.rules.is_some() {
        return Err(Fault::new(at, "not possible together with layer 7 rules"));
    }
    for (field, text) in [("name", &listener.name), ("envoyConfig.name", &listener.envoy_config.name)] {
        if text.is_empty() {
            return Err(Fault::new(format!("{at}.{field}"), "must not be empty"));
        }
    }
    let kinds = ["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"];
    if let Some(kind) = listener.envoy_config.kind.as_deref().filter(|k| !kinds.contains(k)) {
        let reason = format!("{kind:?} is not one of {}", kinds.join(", "));
        return Err(Fault::new(format!("{at}.envoyConfig.kind"), reason));
    }
    if listener.priority.is_some_and(|p| !(1..=100).contains(&p)) {
        return Err(Fault::new(format!("{at}.priority"), "must be from 1 to 100"));
    }
    pending.get_or_insert(Fault::not_enforced(at));
    Ok(())
}

/// Reads one port; a protocol that is left out means TCP, UDP and SCTP (not ICMP).
fn read_port(raw: &RawPort, path: &str) -> Result<Vec<PortMatch>, Fault> {
    let protos: &[u8] = match raw.protocol.as_deref() {
        None | Some("ANY") => &[proto::TCP, proto::UDP, proto::SCTP],
        Some("TCP") => &[proto::TCP],
        Some("UDP") => &[proto::UDP],
        Some("SCTP") => &[proto::SCTP],
        Some("ICMP" | "ICMPV6" | "ICMPv6") => {
            return Err(Fault::new(format!("{path}.protocol"), "ICMP types are chosen by icmps"));
        }
        Some(other @ ("VRRP" | "IGMP" | "GRE" | "IPIP" | "IPV6" | "ESP" | "AH")) => {
            let reason = format!("{other} has no ports, and no policy can allow it: it is always dropped");
            return Err(Fault::new(format!("{path}.protocol"), reason));
        }
        Some(other) => {
            let reason = format!("{other:?} is not one of TCP, UDP, SCTP, ANY");
            return Err(Fault::new(format!("{path}.protocol"), reason));
        }
    };
    let at = format!("{path}.port");
    let text = raw.port.as_deref().ok_or_else(|| Fault::new(&at, "must be given"))?;
    let port = read_port_text(text, raw.end_port, path)?;
    Ok(protos.iter().map(|proto| PortMatch { proto: *proto, port: port.clone() }).collect())
}

/// Reads a number or name with its optional `endPort`.
pub(super) fn read_port_text(text: &str, end: Option<i64>, path: &str) -> Result<PortSpec, Fault> {
    let at = format!("{path}.port");
    let end_at = format!("{path}.endPort");
    // 0 is how the API writes "no end".
    let end = match end {
        None | Some(0) => None,
        Some(end) => Some(
            u16::try_from(end).map_err(|_| Fault::new(&end_at, format!("{end} is not from 1 to 65535")))?,
        ),
    };
    if is_service_name(text) {
        return Ok(PortSpec::Name(text.to_ascii_lowercase(), end));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        let reason = format!(
            "{text:?} is neither a port number nor a name of up to 15 letters, digits and single dashes"
        );
        return Err(Fault::new(at, reason));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(Fault::new(at, format!("{text:?} has a leading zero, which some read as octal")));
    }
    let first: u16 = text.parse().map_err(|_| Fault::new(&at, format!("{text} is above 65535")))?;
    match (first, end) {
        (0, None) => Ok(PortSpec::Any),
        (0, Some(_)) => Err(Fault::new(end_at, "port 0 means any port and takes no endPort")),
        (first, Some(end)) if end < first => Err(Fault::new(end_at, format!("{end} is below port {first}"))),
        (first, end) => Ok(PortSpec::Range(first, end.unwrap_or(first))),
    }
}

/// RFC 6335, section 5.1: up to 15 letters, digits and single inner dashes, at least one letter.
fn is_service_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
