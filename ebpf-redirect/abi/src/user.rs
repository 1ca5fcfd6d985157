//! aya's marker for types that may be read from and written to maps as bytes.
#![allow(unsafe_code)] // every type here is repr(C), made of integers and without hidden padding

use crate::*;

macro_rules! pod {
    ($($t:ty),* $(,)?) => { $(unsafe impl aya::Pod for $t {})* };
}

pod!(
    Addr,
    IpcacheEntry,
    IpcacheKey,
    Config,
    EndpointEntry,
    VethEntry,
    ConnEntry,
    ConnKey,
    Event,
    PolicyEntry,
    PolicyKey,
    AffinityEntry,
    AffinityKey,
    FragmentEntry,
    FragmentKey,
    BackendEntry,
    BackendKey,
    PeerEntry,
    PeerKey,
    ServiceEntry,
    ServiceKey,
);
