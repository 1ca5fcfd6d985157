//! What agent and proxy say to each other over the Unix socket: protobuf messages (encoding of
//! protobuf.dev/programming-guides/encoding), each behind its length as a big-endian u32 (at most
//! [`FRAME_MAX`] bytes).
//!
//! The proxy connects and says [`Hello`]; the agent sends [`ConfigUpdate`]s, the first one full, then
//! deltas; the proxy answers each with [`Ack`] and streams [`Flows`]. Field numbers are never reused.

/// Longest frame in bytes.
pub const FRAME_MAX: usize = 256 << 20;
/// Version of this protocol. A peer with another one is refused with a message.
pub const PROTOCOL_VERSION: u32 = 1;

/// Agent to proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigUpdate {
    /// Policy revision that this update brings the proxy to.
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// Whether this replaces everything (the first message of a connection).
    #[prost(bool, tag = "2")]
    pub full: bool,
    #[prost(message, repeated, tag = "3")]
    pub endpoints: Vec<Endpoint>,
    /// Endpoint ids that are gone.
    #[prost(uint32, repeated, tag = "4")]
    pub removed_endpoints: Vec<u32>,
    #[prost(message, repeated, tag = "5")]
    pub services: Vec<Service>,
    /// [`Service::key`] of services that are gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_services: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub ipcache: Vec<Prefix>,
    /// Prefixes that are gone, such as `10.0.0.0/8`.
    #[prost(string, repeated, tag = "8")]
    pub removed_prefixes: Vec<String>,
    #[prost(message, repeated, tag = "9")]
    pub identities: Vec<Identity>,
    #[prost(uint32, repeated, tag = "10")]
    pub removed_identities: Vec<u32>,
    #[prost(message, repeated, tag = "11")]
    pub rules: Vec<Rule>,
    #[prost(uint32, repeated, tag = "12")]
    pub removed_rules: Vec<u32>,
    /// Name of the node, for access records.
    #[prost(string, tag = "13")]
    pub node: String,
}

/// A pod of this node and its policy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Endpoint {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(uint32, tag = "2")]
    pub identity: u32,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, repeated, tag = "5")]
    pub addresses: Vec<String>,
    /// The policy map, entry by entry.
    #[prost(message, repeated, tag = "6")]
    pub entries: Vec<PolicyMapEntry>,
    #[prost(message, repeated, tag = "7")]
    pub l7: Vec<L7RuleSet>,
}

/// [`abi::PolicyKey`] and [`abi::PolicyEntry`]; ports in host order.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PolicyMapEntry {
    #[prost(uint32, tag = "1")]
    pub prefix_len: u32,
    #[prost(uint32, tag = "2")]
    pub identity: u32,
    #[prost(uint32, tag = "3")]
    pub direction: u32,
    #[prost(uint32, tag = "4")]
    pub proto: u32,
    #[prost(uint32, tag = "5")]
    pub port: u32,
    #[prost(uint32, tag = "6")]
    pub precedence: u32,
    #[prost(uint32, tag = "7")]
    pub rule: u32,
    #[prost(uint32, tag = "8")]
    pub verdict: u32,
}

/// [`policy::l7::L7RuleSet`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct L7RuleSet {
    #[prost(uint32, tag = "1")]
    pub direction: u32,
    #[prost(bool, tag = "2")]
    pub any_peer: bool,
    #[prost(uint32, repeated, tag = "3")]
    pub peers: Vec<u32>,
    #[prost(uint32, tag = "4")]
    pub first_port: u32,
    #[prost(uint32, tag = "5")]
    pub last_port: u32,
    #[prost(uint32, tag = "6")]
    pub rule: u32,
    #[prost(message, repeated, tag = "7")]
    pub http: Vec<HttpRule>,
}

/// [`policy::l7::HttpRule`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpRule {
    #[prost(string, optional, tag = "1")]
    pub method: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub path: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub host: Option<String>,
    #[prost(message, repeated, tag = "4")]
    pub headers: Vec<HeaderRule>,
}

/// [`policy::l7::HeaderRule`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderRule {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
    /// Index into Fail, Log, Add, Delete, Replace.
    #[prost(uint32, tag = "3")]
    pub mismatch: u32,
}

/// A service port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Service {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub port_name: String,
    /// `10.96.0.1:80`, `[fd00::1]:80`.
    #[prost(string, tag = "4")]
    pub vip: String,
    #[prost(uint32, tag = "5")]
    pub proto: u32,
    #[prost(bool, tag = "6")]
    pub keep_vip: bool,
    /// Ready backends, `address:port`.
    #[prost(string, repeated, tag = "7")]
    pub backends: Vec<String>,
    #[prost(uint32, tag = "8")]
    pub affinity_seconds: u32,
}

impl Service {
    /// The name that [`ConfigUpdate::removed_services`] uses: `10.96.0.1:80/6`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.vip, self.proto)
    }
}

/// An entry of the ipcache.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prefix {
    #[prost(string, tag = "1")]
    pub prefix: String,
    #[prost(uint32, tag = "2")]
    pub identity: u32,
    #[prost(uint32, tag = "3")]
    pub endpoint: u32,
    #[prost(uint32, tag = "4")]
    pub flags: u32,
}

/// An identity and its labels, for access records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Identity {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// `key=value`, sorted.
    #[prost(string, repeated, tag = "2")]
    pub labels: Vec<String>,
}

/// [`policy::RuleRef`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rule {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub kind: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "5")]
    pub path: String,
}

/// Proxy to agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProxyMessage {
    #[prost(oneof = "proxy_message::Kind", tags = "1, 2, 3")]
    pub kind: Option<proxy_message::Kind>,
}

/// Variants of [`ProxyMessage`].
pub mod proxy_message {
    /// What the proxy says.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        #[prost(message, tag = "2")]
        Ack(super::Ack),
        #[prost(message, tag = "3")]
        Flows(super::Flows),
    }
}

/// First message of a proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol_version: u32,
    /// Version of the program.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Process id, as the proxy sees it.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Revision that it serves from disk, 0 = none.
    #[prost(uint32, tag = "4")]
    pub revision: u32,
}

/// Answer to a [`ConfigUpdate`], once it is in force on every worker (and on disk).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// Not empty: the update was refused and the revision before it stays in force.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A batch of access records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Flows {
    #[prost(message, repeated, tag = "1")]
    pub flows: Vec<Flow>,
    /// Records lost since the last batch because nobody took them in time.
    #[prost(uint64, tag = "2")]
    pub lost: u64,
}

/// One request (or one connection that ended before its first request).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Flow {
    /// Nanoseconds since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub time_unix_ns: u64,
    #[prost(string, tag = "2")]
    pub source: String,
    /// Original destination (the VIP for a kept one).
    #[prost(string, tag = "3")]
    pub destination: String,
    /// Chosen backend, empty if none was.
    #[prost(string, tag = "4")]
    pub backend: String,
    #[prost(uint32, tag = "5")]
    pub src_identity: u32,
    #[prost(uint32, tag = "6")]
    pub dst_identity: u32,
    #[prost(uint32, tag = "7")]
    pub src_endpoint: u32,
    #[prost(uint32, tag = "8")]
    pub dst_endpoint: u32,
    /// True: forwarded; false: denied or failed, then `reason` is set.
    #[prost(bool, tag = "9")]
    pub forwarded: bool,
    /// [`abi::DropReason`] number, 0 if forwarded.
    #[prost(uint32, tag = "10")]
    pub reason: u32,
    /// For people: what of the nearest rule did not match.
    #[prost(string, tag = "11")]
    pub detail: String,
    #[prost(uint32, tag = "12")]
    pub rule: u32,
    /// [`abi::Direction`] whose policy decided.
    #[prost(uint32, tag = "13")]
    pub direction: u32,
    /// `HTTP/1.1`, `HTTP/2`, `gRPC`, `TCP`.
    #[prost(string, tag = "14")]
    pub protocol: String,
    #[prost(string, tag = "15")]
    pub method: String,
    #[prost(string, tag = "16")]
    pub path: String,
    #[prost(string, tag = "17")]
    pub host: String,
    /// HTTP status that the client saw, 0 if none.
    #[prost(uint32, tag = "18")]
    pub status: u32,
    #[prost(uint64, tag = "19")]
    pub latency_ns: u64,
    #[prost(uint32, tag = "20")]
    pub revision: u32,
}
