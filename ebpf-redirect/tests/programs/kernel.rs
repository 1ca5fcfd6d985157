//! The programs in the kernel, with maps of their own for each test.

use std::net::IpAddr;

use abi::{
    Addr, Config, ConnEntry, ConnKey, Counter, Direction, DropReason, EndpointEntry, Event, EventKind,
    IpcacheEntry, PolicyEntry, PolicyKey, ServiceEntry, ServiceKey, VethEntry, ipcache_flags, service_flags,
    verdict_code,
};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, HashOfMaps, MapData, PerCpuArray, RingBuf};
use aya::programs::{CgroupSockAddr, SchedClassifier, SkLookup, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../heddle.bpf.o");

/// `TCX_NEXT`
const NEXT: u32 = u32::MAX;
/// `TCX_REDIRECT`
const REDIRECT: u32 = 7;
/// `TCX_DROP`
const SHOT: u32 = 2;
/// The test run's packets come in at the loopback device.
pub(crate) const IFINDEX: u32 = 1;
/// Offset of `mark` in `struct __sk_buff`, and a size that holds all of it.
const MARK: std::ops::Range<usize> = 8..12;
const SK_BUFF_BYTES: usize = 192;

/// A pod, as the programs know it.
#[derive(Clone, Copy)]
pub(crate) struct Pod {
    pub(crate) id: u32,
    pub(crate) identity: u32,
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
}

pub(crate) const A: Pod = Pod { id: 11, identity: 1001, v4: "10.1.0.1", v6: "fd00:1::1" };
pub(crate) const B: Pod = Pod { id: 12, identity: 1002, v4: "10.1.0.2", v6: "fd00:1::2" };
/// A pod of another node.
pub(crate) const REMOTE: Pod = Pod { id: 0, identity: 1003, v4: "10.2.0.3", v6: "fd00:2::3" };
/// A pod, and a CIDR of a policy: both have a node-local identity.
pub(crate) const BLOCKED: &str = "10.2.0.4";
pub(crate) const CIDR: &str = "203.0.113.7";
pub(crate) const NODE: &str = "192.168.0.1";
pub(crate) const NODE6: &str = "fd00:9::1";
pub(crate) const OTHER_NODE: &str = "192.168.0.2";
pub(crate) const WORLD: &str = "198.51.100.7";
pub(crate) const WORLD6: &str = "2001:db8::7";
/// A service that needs layer 7, at port 80, and one that does not.
pub(crate) const L7_VIP: &str = "10.96.0.1";
pub(crate) const L7_VIP6: &str = "fd00:96::1";
pub(crate) const L4_VIP: &str = "10.96.0.2";
pub(crate) const TUNNEL_PORT: u16 = 8472;

/// Index of the veth of the pod that [`Kernel::has_veth`] gives one, and the hardware address behind it.
pub(crate) const PEER_IFINDEX: u32 = 4_000_000;
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// What became of a packet.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Went on with this mark.
    Pass(u32),
    /// Went straight into the peer of a veth, without a mark.
    Peer,
    Drop(DropReason),
}

/// The verdict, and the events that went with it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) events: Vec<Event>,
    /// The packet as the program left it.
    pub(crate) packet: Vec<u8>,
}

impl Outcome {
    /// The only event.
    #[track_caller]
    pub(crate) fn event(&self) -> &Event {
        assert_eq!(self.events.len(), 1, "{:?}", self.events);
        &self.events[0]
    }
}

/// Allow, deny or redirect; with the number of the rule.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Allow(u32),
    Deny(u32),
    Strict(u32),
    Lenient(u32),
}

/// The loaded programs and their maps.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    policies: Vec<LpmTrie<MapData, [u8; 8], PolicyEntry>>,
    pub(crate) config: Config,
}

pub(crate) fn addr(text: &str) -> Addr {
    match text.parse().unwrap() {
        IpAddr::V4(ip) => Addr::v4(ip.octets()),
        IpAddr::V6(ip) => Addr::v6(ip.octets()),
    }
}

/// The tuple of a connection; for ICMP echo `sport` is the identifier.
pub(crate) fn conn(proto: u8, src: (&str, u16), dst: (&str, u16)) -> ConnKey {
    ConnKey {
        src: addr(src.0),
        dst: addr(dst.0),
        sport: src.1.to_be(),
        dport: dst.1.to_be(),
        proto,
        _pad: [0; 3],
    }
}

impl Kernel {
    /// Loads all programs beside two pods that may do everything. `None`, said aloud: not as root.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(abi::MAX_CONNECTIONS)
    }

    /// The same with room for so many connections.
    pub(crate) fn start_with(connections: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: the kernel programs can only be tested as root");
            return None;
        }
        let object = match std::env::var_os("HEDDLE_BPF_OBJECT") {
            Some(path) => std::fs::read(path).unwrap(),
            None => OBJECT.to_vec(),
        };
        let mut ebpf = EbpfLoader::new().map_max_entries("CONNECTIONS", connections).load(&object).unwrap();
        for (_, program) in ebpf.programs_mut() {
            if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
                program.load().unwrap();
            } else if let Ok(program) = <&mut SkLookup>::try_from(&mut *program) {
                program.load().unwrap();
            } else {
                <&mut CgroupSockAddr>::try_from(program).unwrap().load().unwrap();
            }
        }
        let events = RingBuf::try_from(ebpf.take_map("EVENTS").unwrap()).unwrap();
        let config = Config {
            abi_version: abi::ABI_VERSION,
            revision: 1,
            node_netns_cookie: 1,
            tunnel_port: TUNNEL_PORT.into(),
            ..Config::default()
        };
        let mut kernel = Self { ebpf, events, policies: Vec::new(), config };
        kernel.fill();
        Some(kernel)
    }

    fn fill(&mut self) {
        self.configure();
        self.prefix("0.0.0.0", 96, abi::IDENTITY_WORLD, 0, 0);
        self.prefix("::", 0, abi::IDENTITY_WORLD, 0, 0);
        for pod in [A, B, REMOTE] {
            self.prefix(pod.v4, 128, pod.identity, pod.id, ipcache_flags::POD);
            self.prefix(pod.v6, 128, pod.identity, pod.id, ipcache_flags::POD);
        }
        self.prefix(BLOCKED, 128, abi::IDENTITY_LOCAL_FIRST, 0, ipcache_flags::POD);
        self.prefix(CIDR, 128, abi::IDENTITY_LOCAL_FIRST + 1, 0, 0);
        for node in [NODE, NODE6] {
            self.prefix(node, 128, abi::IDENTITY_HOST, 0, ipcache_flags::LOCAL_NODE);
        }
        self.prefix(OTHER_NODE, 128, abi::IDENTITY_REMOTE_NODE, 0, ipcache_flags::REMOTE_NODE);
        for vip in [L7_VIP, L7_VIP6, L4_VIP] {
            self.prefix(vip, 128, abi::IDENTITY_WORLD, 0, ipcache_flags::SERVICE_VIP);
        }
        for vip in [L7_VIP, L7_VIP6] {
            let key = ServiceKey { addr: addr(vip), port: 80u16.to_be(), proto: 6, _pad: 0 };
            let entry = ServiceEntry { id: 1, count: 1, flags: service_flags::KEEP_VIP, affinity_seconds: 0 };
            self.hash("SERVICES").insert(key, entry, 0).unwrap();
        }
        let key = ServiceKey { addr: addr(L4_VIP), port: 80u16.to_be(), proto: 6, _pad: 0 };
        let entry = ServiceEntry { id: 2, count: 1, flags: 0, affinity_seconds: 0 };
        self.hash("SERVICES").insert(key, entry, 0).unwrap();
        self.allow_all(A);
        self.allow_all(B);
        self.at(A);
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).unwrap()).unwrap()
    }

    /// Writes `config`.
    pub(crate) fn configure(&mut self) {
        let config = self.config;
        let mut map: Array<_, Config> = Array::try_from(self.ebpf.map_mut("CONFIG").unwrap()).unwrap();
        map.set(0, config, 0).unwrap();
    }

    /// A new policy revision.
    pub(crate) fn next_revision(&mut self) {
        self.config.revision += 1;
        self.configure();
    }

    /// Adds to the ipcache; `bits` of the mapped form.
    pub(crate) fn prefix(&mut self, address: &str, bits: u32, identity: u32, endpoint: u32, flags: u32) {
        let entry = IpcacheEntry { identity, endpoint, flags, node: 0 };
        let mut map: LpmTrie<_, Addr, IpcacheEntry> =
            LpmTrie::try_from(self.ebpf.map_mut("IPCACHE").unwrap()).unwrap();
        map.insert(&Key::new(bits, addr(address)), entry, 0).unwrap();
    }

    /// The packets that follow come from (or go to) this pod's veth.
    pub(crate) fn at(&mut self, pod: Pod) {
        self.at_with(pod, pod.identity, pod.identity);
    }

    /// The same with identities that differ by address.
    pub(crate) fn at_with(&mut self, pod: Pod, identity_v4: u32, identity_v6: u32) {
        let (ipv4, ipv6) = (addr(pod.v4), addr(pod.v6));
        let entry =
            EndpointEntry { id: pod.id, identity_v4, identity_v6, ipv4, ipv6, ..EndpointEntry::default() };
        self.hash("ENDPOINTS").insert(IFINDEX, entry, 0).unwrap();
    }

    /// Makes the way into a pod known; `ifindex` of the host's end of its veth.
    pub(crate) fn has_veth(&mut self, pod: Pod, ifindex: u32) {
        let entry = VethEntry { ifindex, mac: PEER_MAC, _pad: [0; 2] };
        self.hash("VETHS").insert(pod.id, entry, 0).unwrap();
    }

    /// The packets that follow come from a veth that nobody knows.
    pub(crate) fn at_unknown(&mut self) {
        self.hash::<u32, EndpointEntry>("ENDPOINTS").remove(&IFINDEX).unwrap();
    }

    /// Replaces a pod's policy.
    pub(crate) fn policy(&mut self, pod: Pod, entries: &[(PolicyKey, Rule)]) {
        let mut inner: LpmTrie<_, [u8; 8], PolicyEntry> =
            LpmTrie::create(abi::MAX_POLICY_ENTRIES, 1).unwrap();
        for (key, rule) in entries {
            let (verdict, rule, precedence) = match *rule {
                Rule::Deny(rule) => (verdict_code::DENY, rule, 100),
                Rule::Allow(rule) => (verdict_code::ALLOW, rule, 50),
                Rule::Strict(rule) => (verdict_code::REDIRECT_STRICT, rule, 60),
                Rule::Lenient(rule) => (verdict_code::REDIRECT_LENIENT, rule, 55),
            };
            let mut data = [0; 8];
            data[..4].copy_from_slice(&key.identity.to_ne_bytes());
            data[4] = key.direction;
            data[5] = key.proto;
            data[6..].copy_from_slice(&key.port.to_ne_bytes());
            let entry = PolicyEntry { precedence, rule, verdict, _pad: [0; 3] };
            inner.insert(&Key::new(key.prefix_len, data), entry, 0).unwrap();
        }
        let mut outer: HashOfMaps<_, u32, LpmTrie<MapData, [u8; 8], PolicyEntry>> =
            HashOfMaps::try_from(self.ebpf.map_mut("POLICY").unwrap()).unwrap();
        outer.insert(pod.id, &inner, 0).unwrap();
        self.policies.push(inner);
    }

    /// Lets a pod do and receive everything.
    pub(crate) fn allow_all(&mut self, pod: Pod) {
        let any = |direction| PolicyKey::peer(0, direction);
        let entries =
            [(any(abi::Direction::Ingress), Rule::Allow(1)), (any(abi::Direction::Egress), Rule::Allow(2))];
        self.policy(pod, &entries);
    }

    /// Takes a pod's policy away.
    pub(crate) fn no_policy(&mut self, pod: Pod) {
        let mut outer: HashOfMaps<_, u32, LpmTrie<MapData, [u8; 8], PolicyEntry>> =
            HashOfMaps::try_from(self.ebpf.map_mut("POLICY").unwrap()).unwrap();
        outer.remove(&pod.id).unwrap();
    }

    /// A live or expired connection.
    pub(crate) fn connection(&mut self, key: &ConnKey) -> Option<ConnEntry> {
        self.hash("CONNECTIONS").get(key, 0).ok()
    }

    /// Puts a connection into the map.
    pub(crate) fn put_connection(&mut self, key: &ConnKey, entry: &ConnEntry) {
        self.hash::<ConnKey, ConnEntry>("CONNECTIONS").insert(key, entry, 0).unwrap();
    }

    /// Connections that an account ever opened.
    pub(crate) fn opened(&mut self, account: u32) -> u64 {
        self.hash("OPENED").get(&account, 0).unwrap_or(0)
    }

    /// Says, as the loader does, how many of them are gone.
    pub(crate) fn release(&mut self, account: u32, count: u64) {
        self.hash::<u32, u64>("RELEASED").insert(account, count, 0).unwrap();
    }

    /// Sum of a counter over all CPUs.
    pub(crate) fn counter(&mut self, counter: Counter) -> u64 {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map("COUNTERS").unwrap()).unwrap();
        map.get(&(counter as u32), 0).unwrap().iter().sum()
    }

    /// Drops counted for a reason.
    pub(crate) fn drops(&mut self, reason: DropReason) -> u64 {
        [Direction::Ingress, Direction::Egress].map(|direction| self.drops_in(reason, direction)).iter().sum()
    }

    /// The same for one direction.
    pub(crate) fn drops_in(&mut self, reason: DropReason, direction: Direction) -> u64 {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map("DROPS").unwrap()).unwrap();
        map.get(&abi::drop_slot(reason, direction), 0).unwrap().iter().sum()
    }

    /// Runs a packet without a mark through a program.
    pub(crate) fn run(&mut self, program: &str, packet: &[u8]) -> Outcome {
        self.run_marked(program, packet, 0)
    }

    /// Runs a packet through a program.
    pub(crate) fn run_marked(&mut self, program: &str, packet: &[u8], mark: u32) -> Outcome {
        let before: Vec<u64> = DropReason::ALL.iter().map(|reason| self.drops(*reason)).collect();
        let classifier: &mut SchedClassifier = self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let (mut ctx, mut ctx_out, mut out) = ([0; SK_BUFF_BYTES], [0; SK_BUFF_BYTES], vec![0; 4096]);
        ctx[MARK].copy_from_slice(&mark.to_ne_bytes());
        let result = classifier
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: Some(&ctx),
                ctx_out: Some(&mut ctx_out),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(packet.len());
        let mark = u32::from_ne_bytes(ctx_out[MARK].try_into().unwrap());
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            events.push(event(&record));
        }
        let counted: Vec<DropReason> = DropReason::ALL
            .iter()
            .zip(before)
            .filter(|(r, n)| self.drops(**r) != *n)
            .map(|(r, _)| *r)
            .collect();
        let verdict = match (result.return_value, counted.as_slice()) {
            (NEXT, []) => Verdict::Pass(mark),
            (REDIRECT, []) if mark & abi::mark::MASK == 0 => Verdict::Peer,
            (SHOT, [reason]) => Verdict::Drop(*reason),
            other => panic!("return code and counted drops contradict each other: {other:?}"),
        };
        if verdict != Verdict::Peer {
            assert_eq!(out, packet, "a program changed the packet");
        }
        Outcome { verdict, events, packet: out }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, program: &str, packet: &[u8], want: Verdict) -> Outcome {
        let outcome = self.run(program, packet);
        assert_eq!(outcome.verdict, want, "{:?}", outcome.events);
        if let Verdict::Drop(reason) = want {
            let last = outcome.events.last().unwrap();
            assert_eq!(last.reason, reason as u8);
            assert!(last.kind == EventKind::Drop as u8 || last.kind == EventKind::Revoked as u8);
        }
        outcome
    }
}

/// An event out of its bytes; `Event` is made of integers in this order, without hidden padding.
fn event(record: &[u8]) -> Event {
    let mut bytes = record.iter().copied();
    let mut take = |n: usize| -> Vec<u8> { bytes.by_ref().take(n).collect() };
    let u64_of = |b: Vec<u8>| u64::from_ne_bytes(b.try_into().unwrap());
    let u32_of = |b: Vec<u8>| u32::from_ne_bytes(b.try_into().unwrap());
    let u16_of = |b: Vec<u8>| u16::from_ne_bytes(b.try_into().unwrap());
    Event {
        time_ns: u64_of(take(8)),
        src: Addr(std::array::from_fn(|_| u32_of(take(4)))),
        dst: Addr(std::array::from_fn(|_| u32_of(take(4)))),
        src_identity: u32_of(take(4)),
        dst_identity: u32_of(take(4)),
        src_endpoint: u32_of(take(4)),
        dst_endpoint: u32_of(take(4)),
        rule: u32_of(take(4)),
        revision: u32_of(take(4)),
        ifindex: u32_of(take(4)),
        sport: u16_of(take(2)),
        dport: u16_of(take(2)),
        kind: take(1)[0],
        reason: take(1)[0],
        direction: take(1)[0],
        proto: take(1)[0],
        tcp_flags: take(1)[0],
        _pad: [0; 3],
    }
}
