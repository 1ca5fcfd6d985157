//! Entries of a policy map for one peer: the longest match of each protocol and port must carry what wins
//! there, since `decide` compares precedence only between the peer's entry and that of any peer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use abi::{PolicyEntry, verdict_code};

use crate::precedence::Class;

/// What one rule says of some traffic of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// `None`: any protocol, and then any port.
    pub(super) proto: Option<u8>,
    pub(super) ports: (u16, u16),
    pub(super) precedence: u32,
    pub(super) class: Class,
    pub(super) rule: u32,
}

impl Claim {
    fn entry(&self) -> PolicyEntry {
        let verdict = match self.class {
            Class::Allow | Class::AllowLocalhost => verdict_code::ALLOW,
            Class::RedirectLenient => verdict_code::REDIRECT_LENIENT,
            Class::RedirectStrict => verdict_code::REDIRECT_STRICT,
            Class::Deny | Class::Refuse | Class::Pass => verdict_code::DENY,
        };
        PolicyEntry { precedence: self.precedence, rule: self.rule, verdict, _pad: [0; 3] }
    }
}

/// One entry of a peer, without the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flat {
    /// `None`: any protocol and port.
    pub(super) proto: Option<u8>,
    pub(super) port: u16,
    /// Bits of `port` that count.
    pub(super) bits: u32,
    pub(super) entry: PolicyEntry,
}

/// The entries for claims; of claims with equal precedence the first wins.
pub(super) fn flatten(claims: &[Claim]) -> Vec<Flat> {
    let mut out = Vec::new();
    let for_any = (0..claims.len()).filter(|i| claims[*i].proto.is_none());
    let base = for_any.max_by_key(|i| (claims[*i].precedence, Reverse(*i)));
    if let Some(base) = base {
        out.push(Flat { proto: None, port: 0, bits: 0, entry: claims[base].entry() });
    }
    let mut protos: Vec<u8> = claims.iter().filter_map(|c| c.proto).collect();
    protos.sort_unstable();
    protos.dedup();
    for proto in protos {
        let segments = segments(claims, proto, base);
        let tree = Tree::new(&segments, 0, 16);
        tree.emit(0, 16, base, &mut |port, bits, claim: usize| {
            out.push(Flat { proto: Some(proto), port, bits, entry: claims[claim].entry() });
        });
    }
    out
}

/// Consecutive segments of ports, each with the claim that wins there; the first one starts at 0. A sweep
/// over the ports with the claims in force on a heap: a policy may name tens of thousands of ports.
fn segments(claims: &[Claim], proto: u8, base: Option<usize>) -> Vec<(u32, Option<usize>)> {
    let mut own: Vec<usize> = (0..claims.len()).filter(|i| claims[*i].proto == Some(proto)).collect();
    own.sort_by_key(|i| claims[*i].ports.0);
    let ends = |i: usize| u32::from(claims[i].ports.1) + 1;
    let mut starts: Vec<u32> =
        own.iter().flat_map(|i| [u32::from(claims[*i].ports.0), ends(*i)]).chain([0]).collect();
    starts.retain(|start| *start <= u32::from(u16::MAX));
    starts.sort_unstable();
    starts.dedup();

    let rank = |i: usize| (claims[i].precedence, Reverse(i));
    let mut coming = own.into_iter().peekable();
    let mut here = BinaryHeap::new();
    let mut segments: Vec<(u32, Option<usize>)> = Vec::with_capacity(starts.len());
    for start in starts {
        while let Some(i) = coming.next_if(|i| u32::from(claims[*i].ports.0) <= start) {
            here.push(rank(i));
        }
        while here.peek().is_some_and(|(_, Reverse(i))| ends(*i) <= start) {
            here.pop();
        }
        let best = base.map(rank).into_iter().chain(here.peek().copied()).max();
        let won = best.map(|(_, Reverse(i))| i);
        if segments.last().is_none_or(|(_, last)| *last != won) {
            segments.push((start, won));
        }
    }
    segments
}

/// The ports as a binary trie, for the fewest prefixes (the ORTC algorithm: Draves et al., "Constructing
/// optimal IP routing tables"). A port where nothing is claimed cannot be cut out of a prefix that covers
/// it, so a part with such a port takes no entry of its own.
#[derive(Debug)]
struct Tree {
    /// The claims that this part may have as its entry at the least cost.
    choice: Vec<Option<usize>>,
    halves: Option<Box<(Tree, Tree)>>,
}

impl Tree {
    fn new(segments: &[(u32, Option<usize>)], first: u32, free_bits: u32) -> Self {
        let end = first + (1 << free_bits);
        let at = segments.partition_point(|(start, _)| *start <= first) - 1;
        if segments.get(at + 1).is_none_or(|(start, _)| *start >= end) {
            return Self { choice: vec![segments[at].1], halves: None };
        }
        let half = 1 << (free_bits - 1);
        let left = Self::new(segments, first, free_bits - 1);
        let right = Self::new(segments, first + half, free_bits - 1);
        let has_hole = |tree: &Self| tree.choice.contains(&None);
        let choice = if has_hole(&left) || has_hole(&right) {
            vec![None]
        } else {
            let both: Vec<_> = left.choice.iter().filter(|c| right.choice.contains(c)).copied().collect();
            if both.is_empty() {
                let mut all = [left.choice.as_slice(), right.choice.as_slice()].concat();
                all.sort_unstable();
                all
            } else {
                both
            }
        };
        Self { choice, halves: Some(Box::new((left, right))) }
    }

    fn emit(
        &self,
        first: u32,
        free_bits: u32,
        inherited: Option<usize>,
        out: &mut impl FnMut(u16, u32, usize),
    ) {
        let mut now = inherited;
        if !self.choice.contains(&inherited) {
            now = self.choice[0];
            if let Some(claim) = now {
                out(first as u16, 16 - free_bits, claim);
            }
        }
        if let Some(halves) = &self.halves {
            let half = 1 << (free_bits - 1);
            halves.0.emit(first, free_bits - 1, now, out);
            halves.1.emit(first + half, free_bits - 1, now, out);
        }
    }
}
