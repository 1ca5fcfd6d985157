//! Names for numbers: what is in force now, indexed so that events and access records become [`Flow`]s.
//! Built once for each published revision.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::{Direction, DropReason, EventKind, proto};
use ipnet::IpNet;
use jiff::Timestamp;
use l7_proxy::wire;
use policy::snapshot::{Endpoint, ServicePort};
use policy::{CompiledPolicy, Snapshot};

use super::denials::{self, Denials, Denied};
use super::{Flow, FlowVerdict, Icmp, L7, Observer, Party, PolicyName, label_list};

/// The state in force, and the indexes over it.
#[derive(Debug, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub compiled: Arc<CompiledPolicy>,
    by_id: HashMap<u32, Arc<Endpoint>>,
    by_address: HashMap<IpAddr, Arc<Endpoint>>,
    /// `namespace/name` of the service that has this virtual address.
    by_vip: HashMap<IpAddr, String>,
    labels: BTreeMap<u32, Vec<String>>,
    denials: Denials,
}

impl View {
    /// Indexes a published state.
    pub fn new(snapshot: Arc<Snapshot>, compiled: Arc<CompiledPolicy>) -> Self {
        let pods = || snapshot.endpoints.values().filter(|endpoint| !endpoint.host_network);
        let by_address = pods().flat_map(|pod| pod.addresses.iter().map(|ip| (*ip, pod.clone()))).collect();
        let by_vip = snapshot
            .services
            .iter()
            .flat_map(|(key, service)| service.cluster_ips.iter().map(move |ip| (*ip, key.clone())));
        Self {
            by_id: pods().filter(|pod| pod.id != 0).map(|pod| (pod.id, pod.clone())).collect(),
            by_address,
            by_vip: by_vip.collect(),
            labels: compiled.identities.iter().map(|(id, labels)| (*id, label_list(labels))).collect(),
            denials: Denials::default(),
            snapshot,
            compiled,
        }
    }

    /// A kernel event as a flow. `wall_offset_ns`: what to add to the kernel's monotonic clock to get
    /// nanoseconds since the Unix epoch.
    pub fn kernel_flow(&self, event: &abi::Event, wall_offset_ns: i128) -> Flow {
        let icmp = matches!(event.proto, proto::ICMP | proto::ICMPV6);
        let port = |number: u16| if icmp { 0 } else { u16::from_be(number) };
        let verdict = match event.kind {
            kind if kind == EventKind::New as u8 => FlowVerdict::Forwarded,
            kind if kind == EventKind::Redirect as u8 => FlowVerdict::Redirected,
            _ => FlowVerdict::Dropped,
        };
        let message = u16::from_be(event.dport).to_be_bytes();
        let mut flow = Flow {
            time: time(i128::from(event.time_ns) + wall_offset_ns),
            verdict,
            observed_by: Observer::Kernel,
            direction: direction(u32::from(event.direction)),
            protocol: protocol(event.proto),
            source: self.party(event.src_endpoint, event.src_identity, ip(event.src), port(event.sport)),
            destination: self.party(event.dst_endpoint, event.dst_identity, ip(event.dst), port(event.dport)),
            reason: reason(u32::from(event.reason)),
            policy: self.policy(event.rule),
            tcp_flags: if event.proto == proto::TCP { tcp_flags(event.tcp_flags) } else { String::new() },
            icmp: icmp.then_some(Icmp { kind: message[0], code: message[1] }),
            revision: event.revision,
            node: self.snapshot.node.clone(),
            ..Flow::default()
        };
        let side = number_direction(u32::from(event.direction));
        let asked = if icmp { u16::from(message[0]) } else { u16::from_be(event.dport) };
        let ends = [event.src_endpoint, event.dst_endpoint];
        self.explain(&mut flow, event.rule, side, ends, event.proto, asked);
        flow
    }

    /// Says which policies stand behind a denial.
    fn explain(&self, flow: &mut Flow, rule: u32, side: Direction, ends: [u32; 2], proto: u8, port: u16) {
        if flow.verdict != FlowVerdict::Dropped {
            return;
        }
        flow.refused = denials::refused(&self.snapshot, self.compiled.rules.get(&rule));
        if flow.policy.is_some() || !denials::by_policy(flow) {
            return;
        }
        let pod = |endpoint: u32, party: &Party| {
            self.by_id.get(&endpoint).or_else(|| self.by_address.get(&party.ip?)).cloned()
        };
        let source = pod(ends[0], &flow.source);
        let mut destination = pod(ends[1], &flow.destination);
        let mut port = port;
        if let Some((backend, target)) = self.denied_backend(flow) {
            (destination, port) = (self.by_address.get(&backend).cloned(), target);
        }
        let (own, peer, other) = match side {
            Direction::Ingress => (destination, source, &flow.source),
            Direction::Egress => (source, destination, &flow.destination),
        };
        let Some(own) = own else { return };
        // Of a service's address nobody has the identity.
        let of_pod = peer.as_ref().map_or(0, |peer| peer.identity);
        let denied = Denied {
            own: &own,
            direction: side,
            peer: peer.as_deref(),
            peer_identity: if other.identity == 0 { of_pod } else { other.identity },
            peer_address: other.ip,
            proto,
            port,
        };
        self.denials.explain(&self.snapshot, &self.compiled, &denied, flow);
    }

    /// The backend that a denial at a service's address is about: the chosen one, or, where the proxy was
    /// denied all of them, the last, whose denial it reports.
    fn denied_backend(&self, flow: &Flow) -> Option<(IpAddr, u16)> {
        if let (Some(ip), port) = address(&flow.backend) {
            return Some((ip, port));
        }
        let (vip, service) = (flow.destination.ip?, self.snapshot.services.get(&flow.destination.service)?);
        let of_port = |port: &&ServicePort| port.port == flow.destination.port && port.proto == proto::TCP;
        let mut backends = service.ports.iter().find(of_port)?.backends.iter().rev();
        let backend = backends.find(|b| b.ready && b.address.is_ipv4() == vip.is_ipv4())?;
        Some((backend.address, backend.port))
    }

    /// An access record of the proxy as a flow.
    pub fn proxy_flow(&self, record: &wire::Flow) -> Flow {
        let (from, from_port) = address(&record.source);
        let (to, to_port) = address(&record.destination);
        let mut flow = Flow {
            time: time(i128::from(record.time_unix_ns)),
            verdict: if record.forwarded { FlowVerdict::Forwarded } else { FlowVerdict::Dropped },
            observed_by: Observer::Proxy,
            direction: direction(record.direction),
            protocol: protocol(proto::TCP),
            source: self.party(record.src_endpoint, record.src_identity, from, from_port),
            destination: self.proxy_destination(record, to, to_port),
            reason: reason(record.reason),
            policy: self.policy(record.rule),
            detail: record.detail.clone(),
            l7: Some(L7 {
                protocol: record.protocol.clone(),
                method: record.method.clone(),
                path: record.path.clone(),
                host: record.host.clone(),
                status: record.status,
                latency_ns: record.latency_ns,
            }),
            backend: record.backend.clone(),
            revision: record.revision,
            node: self.snapshot.node.clone(),
            ..Flow::default()
        };
        let side = number_direction(record.direction);
        let ends = [record.src_endpoint, record.dst_endpoint];
        self.explain(&mut flow, record.rule, side, ends, proto::TCP, to_port);
        flow
    }

    /// The original destination, named after the chosen backend where that was a service.
    fn proxy_destination(&self, record: &wire::Flow, to: Option<IpAddr>, port: u16) -> Party {
        let mut party = self.party(record.dst_endpoint, record.dst_identity, to, port);
        if party.name.is_empty()
            && let (Some(backend), _) = address(&record.backend)
            && let Some(pod) = self.by_address.get(&backend)
        {
            party.namespace.clone_from(&pod.namespace);
            party.name.clone_from(&pod.name);
        }
        party
    }

    /// One end. Endpoint ids are the surest name; addresses come second, since they are used again.
    fn party(&self, endpoint: u32, identity: u32, ip: Option<IpAddr>, port: u16) -> Party {
        let by_address = || self.by_address.get(&ip?);
        let pod = self.by_id.get(&endpoint).or_else(by_address);
        let identity = if identity == 0 { ip.map_or(0, |ip| self.identity_of(ip)) } else { identity };
        Party {
            ip,
            port,
            identity,
            labels: self.labels.get(&identity).cloned().unwrap_or_default(),
            namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
            name: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
            service: ip.and_then(|ip| self.by_vip.get(&ip).cloned()).unwrap_or_default(),
        }
    }

    /// Longest match in the ipcache; 0 if there is none.
    fn identity_of(&self, ip: IpAddr) -> u32 {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let nets = (0..=longest).rev().filter_map(|length| IpNet::new(ip, length).ok());
        nets.filter_map(|net| self.compiled.ipcache.get(&net.trunc()))
            .map(|target| target.identity)
            .next()
            .unwrap_or(0)
    }

    fn policy(&self, rule: u32) -> Option<PolicyName> {
        self.compiled.rules.get(&rule).map(PolicyName::from)
    }
}

/// What to add to the kernel's monotonic clock to get nanoseconds since the Unix epoch. Asked anew for each
/// batch of events: clocks are set.
pub fn wall_offset_ns() -> i128 {
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let monotonic = monotonic.map_or(0, |t| i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec()));
    Timestamp::now().as_nanosecond() - monotonic
}

/// RFC 3339 of nanoseconds since the Unix epoch.
fn time(unix_ns: i128) -> String {
    Timestamp::from_nanosecond(unix_ns).map(|t| format!("{t:.9}")).unwrap_or_default()
}

fn ip(address: abi::Addr) -> Option<IpAddr> {
    if address == abi::Addr::default() {
        return None;
    }
    Some(if address.is_v4() { IpAddr::from(address.v4_octets()) } else { IpAddr::from(address.octets()) })
}

fn address(text: &str) -> (Option<IpAddr>, u16) {
    match text.parse::<SocketAddr>() {
        Ok(address) => (Some(address.ip().to_canonical()), address.port()),
        Err(_) => (None, 0),
    }
}

fn number_direction(number: u32) -> Direction {
    if number == Direction::Ingress as u32 { Direction::Ingress } else { Direction::Egress }
}

fn direction(number: u32) -> String {
    match number_direction(number) {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
    .to_owned()
}

fn reason(number: u32) -> String {
    let known = u8::try_from(number).ok().and_then(DropReason::from_number);
    match (number, known) {
        (0, _) => String::new(),
        (_, Some(reason)) => reason.name().to_owned(),
        (_, None) => format!("REASON_{number}"),
    }
}

/// The name of an IANA protocol number, or the number.
pub fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".into(),
        proto::UDP => "UDP".into(),
        proto::SCTP => "SCTP".into(),
        proto::ICMP => "ICMPv4".into(),
        proto::ICMPV6 => "ICMPv6".into(),
        other => other.to_string(),
    }
}

/// The flags of a TCP header's 14th octet (RFC 9293, section 3.1), comma-separated.
fn tcp_flags(bits: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = names.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
