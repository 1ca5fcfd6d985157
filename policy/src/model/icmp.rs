//! ICMP types by name and number. Cilium reads type 0 as "any"; here it is the echo reply that it says.

use abi::proto;
use serde_json::Value;

use super::ports::PORTS_MAX;
use super::raw::{RawIcmpField, RawIcmpRule};
use super::refusal::Fault;
use super::{PortMatch, PortRule, PortSpec};

/// Names of ICMP types (RFC 792 and successors), as Cilium spells them.
const V4: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// Names of ICMPv6 types (RFC 4443 and successors), as Cilium spells them.
const V6: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// Reads `icmps`.
pub(super) fn read(rules: &[RawIcmpRule], path: &str) -> Result<Vec<PortRule>, Fault> {
    let mut out = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if rule.fields.len() > PORTS_MAX {
            let reason = format!("{} types, the most is {PORTS_MAX}", rule.fields.len());
            return Err(Fault::new(format!("{path}.fields"), reason));
        }
        let fields = rule.fields.iter().enumerate();
        let ports: Result<_, _> =
            fields.map(|(j, field)| read_field(field, &format!("{path}.fields[{j}]"))).collect();
        out.push(PortRule { path, ports: ports?, http: None });
    }
    Ok(out)
}

fn read_field(field: &RawIcmpField, path: &str) -> Result<PortMatch, Fault> {
    let (proto, names, family) = match field.family.as_deref() {
        None | Some("IPv4") => (proto::ICMP, V4, "IPv4"),
        Some("IPv6") => (proto::ICMPV6, V6, "IPv6"),
        Some(other) => {
            return Err(Fault::new(format!("{path}.family"), format!("{other:?} is not IPv4 or IPv6")));
        }
    };
    let at = format!("{path}.type");
    let number = match &field.kind {
        Value::Number(n) => n.as_u64().and_then(|n| u8::try_from(n).ok()),
        Value::String(name) => match names.iter().find(|(known, _)| known == name) {
            Some((_, number)) => Some(*number),
            None if name.is_empty() || !name.bytes().all(|b| b.is_ascii_digit()) => {
                let reason = format!("{name:?} is no name of an {family} ICMP type");
                return Err(Fault::new(at, reason));
            }
            None if name.len() > 1 && name.starts_with('0') => None,
            None => name.parse().ok(),
        },
        _ => None,
    };
    let number = number
        .ok_or_else(|| Fault::new(at, format!("{} is not a type from 0 to 255 or its name", field.kind)))?;
    Ok(PortMatch { proto, port: PortSpec::Range(number.into(), number.into()) })
}
