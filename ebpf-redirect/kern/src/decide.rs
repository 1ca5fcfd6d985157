//! Who speaks to whom, and what policy says of it: ipcache lookups and the one call of [`abi::decide`]
//! per direction.

use abi::{
    Addr, Decision, Direction, DropReason, IpcacheEntry, PolicyEntry, PolicyKey, PolicyLookup, Verdict,
    ipcache_flags, proto, service_flags,
};
use aya_ebpf::helpers::generated as helpers;

use crate::{
    flow::{Current, DONE, FAILED},
    maps::{EndpointPolicy, IPCACHE, POLICY, SERVICES},
};

/// Which of a flow's tuples opened the connection that is decided about.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// The sender of the packet in hand.
    Sender,
    /// Its receiver: the packet is a reply.
    Receiver,
}

/// Looks an address up. An address that no prefix covers is the world's; the agent installs prefixes of
/// length 0 for it, so that this is only so while the map is empty.
#[inline(always)]
fn peer(mut flow: Current, address: Addr) -> IpcacheEntry {
    flow.prefix.prefix_len = 128;
    flow.prefix.addr = address;
    let found = unsafe {
        helpers::bpf_map_lookup_elem((&raw const IPCACHE).cast_mut().cast(), (&raw const flow.prefix).cast())
    };
    if found.is_null() {
        return IpcacheEntry { identity: abi::IDENTITY_WORLD, endpoint: 0, flags: 0, node: 0 };
    }
    unsafe { *found.cast::<IpcacheEntry>() }
}

/// Fills in who sends the packet.
#[inline(always)]
pub fn find_source(mut flow: Current) {
    flow.src = peer(flow, flow.key.src);
}

/// Fills in who shall get the packet.
#[inline(always)]
pub fn find_destination(mut flow: Current) {
    flow.dst = peer(flow, flow.key.dst);
}

/// The inner map of one endpoint.
struct Policy<'a> {
    entries: &'a EndpointPolicy,
}

impl PolicyLookup for Policy<'_> {
    #[inline(always)]
    fn longest_match(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let found = unsafe {
            helpers::bpf_map_lookup_elem(
                core::ptr::from_ref(self.entries).cast_mut().cast(),
                core::ptr::from_ref(key).cast(),
            )
        };
        if found.is_null() { None } else { Some(unsafe { *found.cast::<PolicyEntry>() }) }
    }
}

/// Asks the policy of local endpoint `endpoint` about `identity`, the peer's.
#[inline(always)]
pub fn ask(endpoint: u32, identity: u32, direction: Direction, proto: u8, port: u16) -> Decision {
    match unsafe { POLICY.get(&endpoint) } {
        Some(entries) => abi::decide(&Policy { entries }, identity, direction, proto, port),
        None => Decision { verdict: Verdict::Drop(DropReason::NoPolicy), rule: 0 },
    }
}

/// How much a verdict weighs against that of the other direction.
#[inline(always)]
fn weight(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Redirect { lenient: true } => 1,
        Verdict::Redirect { lenient: false } => 2,
        Verdict::Drop(_) => 3,
    }
}

/// Decides the connection that `opener` opened, by the policies of both local endpoints, in one pass:
/// what comes out of the flow is verdict, rule, direction and whether it is for a kept VIP.
#[inline(always)]
pub fn decide(_: Current, opener: Opener) {
    decide_connection(opener as u32);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decide_connection(opener: u32) -> u32 {
    let Some(flow) = Current::fetch() else { return FAILED };
    ask_both(flow, opener == Opener::Receiver as u32);
    DONE
}

#[inline(always)]
fn ask_both(mut flow: Current, reply: bool) {
    let (src, dst) = if reply { (flow.dst, flow.src) } else { (flow.src, flow.dst) };
    flow.vip = false;
    if dst.flags & ipcache_flags::SERVICE_VIP != 0 {
        return decide_vip(flow);
    }
    let port = if flow.is_icmp() {
        flow.opening_type(reply) as u16
    } else {
        u16::from_be(if reply { flow.key.sport } else { flow.key.dport })
    };
    let proto = flow.key.proto;
    flow.verdict = Verdict::Allow;
    flow.rule = 0;
    flow.direction = Direction::Ingress;
    if src.endpoint != 0 {
        let egress = ask(src.endpoint, dst.identity, Direction::Egress, proto, port);
        flow.verdict = egress.verdict;
        flow.rule = egress.rule;
        flow.direction = Direction::Egress;
    }
    if dst.endpoint != 0 && weight(&flow.verdict) < 3 {
        let ingress = ask(dst.endpoint, src.identity, Direction::Ingress, proto, port);
        // On a tie the direction that has a rule to show is named.
        if weight(&ingress.verdict) > weight(&flow.verdict)
            || weight(&ingress.verdict) == weight(&flow.verdict) && flow.rule == 0
        {
            flow.verdict = ingress.verdict;
            flow.rule = ingress.rule;
            flow.direction = Direction::Ingress;
        }
    }
    // Only TCP has a listener; an entry that says otherwise must not become a way around it.
    if proto != proto::TCP
        && let Verdict::Redirect { .. } = flow.verdict
    {
        flow.verdict = Verdict::Drop(DropReason::UnsupportedL4);
    }
}

/// A packet to a VIP: either the proxy takes it, or nobody translated it and it must not travel.
#[inline(always)]
fn decide_vip(mut flow: Current) {
    flow.rule = 0;
    flow.direction = Direction::Egress;
    flow.verdict = Verdict::Drop(DropReason::NoService);
    if flow.key.proto != proto::TCP {
        return;
    }
    flow.service.addr = flow.key.dst;
    flow.service.port = flow.key.dport;
    flow.service.proto = proto::TCP;
    flow.service._pad = 0;
    if let Some(service) = SERVICES.get_ptr(&flow.service)
        && unsafe { (*service).flags } & service_flags::KEEP_VIP != 0
    {
        flow.vip = true;
        flow.verdict = Verdict::Redirect { lenient: true };
    }
}
