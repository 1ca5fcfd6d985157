//! Blocks of addresses.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::CidrPeer;
use super::raw::RawCidrRule;
use super::refusal::Fault;
use super::selector::Selector;

/// Most exceptions of one block.
const EXCEPT_MAX: usize = 256;

/// Reads `ADDRESS/BITS`. Bits behind the prefix are dropped, as Cilium does.
pub(super) fn read(text: &str, path: &str) -> Result<IpNet, Fault> {
    if text.parse::<IpAddr>().is_ok() {
        let bits = if text.contains(':') { 128 } else { 32 };
        let reason = format!("{text:?} is an address without a prefix length; write {text}/{bits}");
        return Err(Fault::new(path, reason));
    }
    let net: Option<IpNet> = text.parse().ok();
    let canonical_bits = |net: &IpNet| text.rsplit('/').next() == Some(net.prefix_len().to_string().as_str());
    let net = net.filter(canonical_bits).ok_or_else(|| {
        Fault::new(path, format!("{text:?} is not a block of addresses such as 10.0.0.0/8"))
    })?;
    if let IpNet::V6(v6) = net
        && is_mapped(&v6.addr())
    {
        let reason = format!("{text:?} is an IPv4-mapped block; write it as IPv4");
        return Err(Fault::new(path, reason));
    }
    Ok(net.trunc())
}

fn is_mapped(addr: &Ipv6Addr) -> bool {
    addr.to_ipv4_mapped().is_some()
}

/// Reads a block and its exceptions, which must lie inside.
pub(super) fn read_except(cidr: &str, except: &[String], pods: bool, path: &str) -> Result<CidrPeer, Fault> {
    let cidr = read(cidr, &format!("{path}.cidr"))?;
    if except.len() > EXCEPT_MAX {
        let reason = format!("{} exceptions, the most is {EXCEPT_MAX}", except.len());
        return Err(Fault::new(format!("{path}.except"), reason));
    }
    let mut out = Vec::new();
    for (i, text) in except.iter().enumerate() {
        let at = format!("{path}.except[{i}]");
        let net = read(text, &at)?;
        if !cidr.contains(&net) {
            return Err(Fault::new(at, format!("{net} is not inside {cidr}")));
        }
        if pods && net == cidr {
            return Err(Fault::new(at, format!("{net} leaves nothing of {cidr}")));
        }
        out.push(net);
    }
    out.sort();
    out.dedup();
    Ok(CidrPeer { cidr, except: out, pods })
}

/// Reads an element of `fromCIDRSet` or `toCIDRSet`.
pub(super) fn read_set(
    raw: &RawCidrRule,
    path: &str,
    pending: &mut Option<Fault>,
) -> Result<Option<CidrPeer>, Fault> {
    let kinds = [raw.cidr.is_some(), raw.cidr_group_ref.is_some(), raw.cidr_group_selector.is_some()];
    if kinds.iter().filter(|k| **k).count() != 1 {
        let reason = "needs exactly one of cidr, cidrGroupRef, cidrGroupSelector";
        return Err(Fault::new(path, reason));
    }
    if let Some(cidr) = &raw.cidr {
        return read_except(cidr, &raw.except, false, path).map(Some);
    }
    for (i, text) in raw.except.iter().enumerate() {
        read(text, &format!("{path}.except[{i}]"))?;
    }
    if let Some(name) = &raw.cidr_group_ref {
        let at = format!("{path}.cidrGroupRef");
        if name.is_empty() || name.len() > 253 {
            return Err(Fault::new(at, format!("{name:?} is not a name")));
        }
        pending.get_or_insert(Fault::not_enforced(at));
    }
    if let Some(raw) = &raw.cidr_group_selector {
        let at = format!("{path}.cidrGroupSelector");
        Selector::read(raw, &at, false)?;
        pending.get_or_insert(Fault::not_enforced(at));
    }
    Ok(None)
}
