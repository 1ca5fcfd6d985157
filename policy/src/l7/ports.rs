//! From port and peer to the rules that hold for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use abi::Direction;

use super::matcher::Matcher;
use super::{Compiled, L7Error};

/// One direction: consecutive segments of ports, each with the rules of its peers.
#[derive(Debug)]
pub(super) struct PortTable {
    /// Sorted by first port.
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    first: u16,
    last: u16,
    /// Rules for any peer.
    any: Option<Arc<Matcher>>,
    /// Peers that have rules of their own; those for any peer are part of them.
    peers: HashMap<u32, Arc<Matcher>>,
}

impl PortTable {
    pub(super) fn new(direction: Direction, compiled: &mut Compiled<'_>) -> Result<Self, L7Error> {
        let sets: Vec<usize> =
            (0..compiled.sets.len()).filter(|i| compiled.sets[*i].direction == direction).collect();
        // Every port where the list of sets may change starts a segment.
        let mut starts = BTreeSet::new();
        for i in &sets {
            let (first, last) = compiled.sets[*i].ports;
            starts.insert(u32::from(first));
            starts.insert(u32::from(last) + 1);
        }
        let starts: Vec<u32> = starts.into_iter().collect();
        let mut segments = Vec::new();
        for pair in starts.windows(2) {
            let (first, last) = (pair[0] as u16, (pair[1] - 1) as u16);
            let covers = |i: &&usize| {
                let ports = compiled.sets[**i].ports;
                ports.0 <= first && last <= ports.1
            };
            let here: Vec<usize> = sets.iter().filter(covers).copied().collect();
            if !here.is_empty() {
                segments.push(Segment::new(first, last, &here, compiled)?);
            }
        }
        Ok(Self { segments })
    }

    pub(super) fn find(&self, peer: u32, port: u16) -> Option<&Matcher> {
        let at = self.segments.partition_point(|s| s.last < port);
        let segment = self.segments.get(at).filter(|s| s.first <= port)?;
        segment.peers.get(&peer).or(segment.any.as_ref()).map(Arc::as_ref)
    }
}

impl Segment {
    fn new(first: u16, last: u16, here: &[usize], compiled: &mut Compiled<'_>) -> Result<Self, L7Error> {
        let for_any: Vec<usize> =
            here.iter().filter(|i| compiled.sets[**i].peers.is_none()).copied().collect();
        let mut by_peer: HashMap<u32, Vec<usize>> = HashMap::new();
        for i in here {
            for peer in compiled.sets[*i].peers.iter().flatten() {
                by_peer.entry(*peer).or_default().push(*i);
            }
        }
        let any = if for_any.is_empty() { None } else { Some(compiled.matcher(for_any.clone())?) };
        let mut peers = HashMap::with_capacity(by_peer.len());
        for (peer, mut own) in by_peer {
            own.extend_from_slice(&for_any);
            own.sort_unstable();
            own.dedup();
            peers.insert(peer, compiled.matcher(own)?);
        }
        Ok(Self { first, last, any, peers })
    }
}
