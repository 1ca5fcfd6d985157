//! Every map, under the name by which the loader finds it. Sizes and layouts are those of the abi crate.
//!
//! Hashes that may grow large are not preallocated: a node with few pods should not pay for many.

use abi::{
    Addr, AffinityEntry, AffinityKey, BackendEntry, BackendKey, Config, ConnEntry, ConnKey, Counter,
    EndpointEntry, Event, FragmentEntry, FragmentKey, IpcacheEntry, ListenerSlot, PeerEntry, PeerKey,
    PolicyEntry, ServiceEntry, ServiceKey, VethEntry,
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap},
    macros::btf_map,
};

use crate::{event::Bucket, flow::Flow};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

/// [`abi::PolicyKey`] behind its prefix length.
#[repr(C)]
pub struct PolicyData {
    pub identity: u32,
    pub direction: u8,
    pub proto: u8,
    pub port: u16,
}

/// Policy of one endpoint: [`abi::PolicyKey`] -> [`PolicyEntry`].
pub type EndpointPolicy = LpmTrie<PolicyData, PolicyEntry, { abi::MAX_POLICY_ENTRIES as usize }>;

/// One entry: [`Config`].
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Index of the host's end of a veth -> the endpoint behind it.
#[btf_map]
pub static ENDPOINTS: HashMap<u32, EndpointEntry, { abi::MAX_ENDPOINTS as usize }, LAZY> = HashMap::new();

/// Endpoint id -> the way into the pod.
#[btf_map]
pub static VETHS: HashMap<u32, VethEntry, { abi::MAX_ENDPOINTS as usize }, LAZY> = HashMap::new();

/// Cookie of a pod's network namespace -> endpoint id.
#[btf_map]
pub static NETNS: HashMap<u64, u32, { abi::MAX_ENDPOINTS as usize }, LAZY> = HashMap::new();

/// Prefix -> identity.
#[btf_map]
pub static IPCACHE: LpmTrie<Addr, IpcacheEntry, { abi::MAX_IPCACHE as usize }> = LpmTrie::new();

/// Endpoint id -> its policy, replaced as a whole.
#[btf_map]
pub static POLICY: HashOfMaps<u32, EndpointPolicy, { abi::MAX_ENDPOINTS as usize }, LAZY> = HashOfMaps::new();

/// Live connections. Not an LRU: when it is full, new connections are dropped, not old ones forgotten.
#[btf_map]
pub static CONNECTIONS: HashMap<ConnKey, ConnEntry, { abi::MAX_CONNECTIONS as usize }, LAZY> = HashMap::new();

/// [`abi::account`] -> connections that it ever opened. Only the programs write it.
#[btf_map]
pub static OPENED: HashMap<u32, u64, { abi::MAX_ACCOUNTS as usize }, LAZY> = HashMap::new();

/// [`abi::account`] -> connections of it that are no longer in the map. Only the loader's garbage collection
/// writes it: so neither needs to wait for the other.
#[btf_map]
pub static RELEASED: HashMap<u32, u64, { abi::MAX_ACCOUNTS as usize }, LAZY> = HashMap::new();

/// First fragments seen.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, { abi::MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// Service port -> number of backends and flags.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry, { abi::MAX_SERVICES as usize }, LAZY> = HashMap::new();

/// Service and slot -> backend.
#[btf_map]
pub static BACKENDS: HashMap<BackendKey, BackendEntry, { abi::MAX_BACKENDS as usize }, LAZY> = HashMap::new();

/// Socket and backend -> the VIP that the application asked for.
#[btf_map]
pub static PEERS: LruHashMap<PeerKey, PeerEntry, { abi::MAX_PEERS as usize }> = LruHashMap::new();

/// Client and service -> the backend it had last.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, { abi::MAX_AFFINITY as usize }> =
    LruHashMap::new();

/// The proxy's transparent listeners, by [`ListenerSlot`].
#[btf_map]
pub static LISTENERS: SockMap<{ ListenerSlot::COUNT as usize }> = SockMap::new();

/// Drops by [`abi::drop_slot`].
#[btf_map]
pub static DROPS: PerCpuArray<u64, { abi::MAX_DROP_SLOTS as usize }> = PerCpuArray::new();

/// Counts by [`Counter`].
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Events for the agent.
#[btf_map]
pub static EVENTS: RingBuf<Event, { abi::EVENT_RING_BYTES as usize }> = RingBuf::new();

/// Each CPU's event budget.
#[btf_map]
pub static BUCKETS: PerCpuArray<Bucket, 1> = PerCpuArray::new();

/// The packet in hand: too large for the 512 bytes of stack that all nested functions share.
#[btf_map]
pub static FLOWS: PerCpuArray<Flow, 1> = PerCpuArray::new();
