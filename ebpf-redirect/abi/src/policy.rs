//! The policy map and [`decide`], the only L3/L4 decision: the kernel runs it on real maps, the proxy,
//! tests and `heddle policy explain` run it on a `BTreeMap`.

use crate::DropReason;

/// IANA protocol numbers that policy can speak about.
pub mod proto {
    pub const ANY: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// Direction of traffic, relative to the endpoint whose policy is asked.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

/// Key of an endpoint's policy map (LPM trie; inner map of `POLICY`). The prefix covers, in this order,
/// identity and direction (always whole), protocol (whole, or not at all) and port (any number of bits).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Bits of the rest that count: [`PolicyKey::PREFIX_PEER`] up to [`PolicyKey::PREFIX_FULL`].
    pub prefix_len: u32,
    /// Identity of the peer; 0 = any peer.
    pub identity: u32,
    /// [`Direction`].
    pub direction: u8,
    /// IANA protocol number; 0 with a prefix that does not reach it = any.
    pub proto: u8,
    /// Destination port, network order; for ICMP the type.
    pub port: u16,
}

impl PolicyKey {
    /// Identity and direction only: any protocol, any port.
    pub const PREFIX_PEER: u32 = 40;
    /// Identity, direction and protocol: any port.
    pub const PREFIX_PROTO: u32 = 48;
    /// Everything: exactly one port.
    pub const PREFIX_FULL: u32 = 64;

    /// The key of a lookup: `port` in host order.
    pub const fn lookup(identity: u32, direction: Direction, proto: u8, port: u16) -> Self {
        Self {
            prefix_len: Self::PREFIX_FULL,
            identity,
            direction: direction as u8,
            proto,
            port: port.to_be(),
        }
    }

    /// Any protocol and port of this peer.
    pub const fn peer(identity: u32, direction: Direction) -> Self {
        Self { prefix_len: Self::PREFIX_PEER, identity, direction: direction as u8, proto: 0, port: 0 }
    }

    /// The ports (host order) that share the first `bits` (0 to 16) bits with `port`.
    pub const fn ports(identity: u32, direction: Direction, proto: u8, port: u16, bits: u32) -> Self {
        let prefix_len = Self::PREFIX_PROTO + bits;
        Self { prefix_len, identity, direction: direction as u8, proto, port: port.to_be() }
    }
}

/// Codes of [`PolicyEntry::verdict`].
pub mod verdict_code {
    /// Anything unknown is a denial too, so that a zeroed or newer entry fails closed.
    pub const DENY: u8 = 0;
    pub const ALLOW: u8 = 1;
    /// To the proxy, and a live direct connection is reset.
    pub const REDIRECT_STRICT: u8 = 2;
    /// To the proxy; live direct connections go on as they are.
    pub const REDIRECT_LENIENT: u8 = 3;
}

/// Value of an endpoint's policy map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyEntry {
    /// The larger wins between the entry of the peer and that of any peer; deny is the top of its band.
    pub precedence: u32,
    /// Number of the rule, for events and `explain`; 0 = none.
    pub rule: u32,
    /// See [`verdict_code`].
    pub verdict: u8,
    pub _pad: [u8; 3],
}

/// What policy says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// To the proxy.
    Redirect {
        /// Whether live direct connections may go on.
        lenient: bool,
    },
    Drop(DropReason),
}

/// A verdict and the rule that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// 0 if no rule matched.
    pub rule: u32,
}

/// An endpoint's policy map: longest-prefix match over everything behind `prefix_len`.
pub trait PolicyLookup {
    /// The entry with the longest prefix that covers `key`.
    fn longest_match(&self, key: &PolicyKey) -> Option<PolicyEntry>;
}

/// Decides a packet of `identity` (the peer's) in `direction`. `port` is the destination port in host
/// order, for ICMP the type. No entry means [`DropReason::PolicyDenied`]: a direction without default
/// deny has an explicit entry that allows.
#[inline(always)]
pub fn decide<M: PolicyLookup>(
    map: &M,
    identity: u32,
    direction: Direction,
    proto: u8,
    port: u16,
) -> Decision {
    let of_peer = map.longest_match(&PolicyKey::lookup(identity, direction, proto, port));
    let of_any = map.longest_match(&PolicyKey::lookup(0, direction, proto, port));
    let entry = match (of_peer, of_any) {
        (Some(peer), Some(any)) if any.precedence > peer.precedence => any,
        (Some(peer), _) => peer,
        (None, Some(any)) => any,
        (None, None) => {
            return Decision { verdict: Verdict::Drop(DropReason::PolicyDenied), rule: 0 };
        }
    };
    let verdict = match entry.verdict {
        verdict_code::ALLOW => Verdict::Allow,
        verdict_code::REDIRECT_STRICT => Verdict::Redirect { lenient: false },
        verdict_code::REDIRECT_LENIENT => Verdict::Redirect { lenient: true },
        _ => Verdict::Drop(DropReason::PolicyDeny),
    };
    Decision { verdict, rule: entry.rule }
}

#[cfg(not(target_arch = "bpf"))]
mod btree {
    extern crate alloc;
    use super::{PolicyEntry, PolicyKey, PolicyLookup};
    use alloc::collections::BTreeMap;

    /// The same longest-prefix match as the kernel's LPM trie.
    impl PolicyLookup for BTreeMap<PolicyKey, PolicyEntry> {
        fn longest_match(&self, key: &PolicyKey) -> Option<PolicyEntry> {
            let port = u16::from_be(key.port);
            (0..=16u32)
                .rev()
                .map(|bits| {
                    let kept = if bits == 0 { 0 } else { port & (u16::MAX << (16 - bits)) };
                    PolicyKey {
                        prefix_len: PolicyKey::PREFIX_PROTO + bits,
                        identity: key.identity,
                        direction: key.direction,
                        proto: key.proto,
                        port: kept.to_be(),
                    }
                })
                .chain([PolicyKey {
                    prefix_len: PolicyKey::PREFIX_PEER,
                    identity: key.identity,
                    direction: key.direction,
                    proto: 0,
                    port: 0,
                }])
                .find_map(|candidate| self.get(&candidate).copied())
        }
    }
}
