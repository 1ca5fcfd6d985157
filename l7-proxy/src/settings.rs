//! Every number that an operator may want to change, with its default, in one place.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads, each with its own runtime, listeners and upstream pool.
    pub workers: usize,
    /// Port of the listener for connections that pods of this node open. 0 = any free one.
    pub egress_port: u16,
    /// Port of the listener for connections that come to pods of this node from elsewhere.
    pub ingress_port: u16,
    /// `/ready`, `/config_dump`, `/stats`.
    pub admin: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Unix socket of the agent.
    pub agent_socket: PathBuf,
    /// Where the last acknowledged configuration is kept.
    pub state_dir: PathBuf,
    /// Where the listeners are bound.
    pub bind: Bind,
    /// How workers get their connections.
    pub sharing: Sharing,
    /// Version of the program, for the agent.
    pub version: String,
    pub limits: Limits,
}

/// Where listeners are bound and whether sockets bear foreign addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Transparent listeners on the wildcard addresses of both families; upstream sockets bear the
    /// client's address. Needs CAP_NET_RAW.
    Transparent,
    /// Plain sockets on the loopback addresses: for tests without privileges.
    Loopback,
}

/// How the workers share a listener's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// One socket for each worker, in a SO_REUSEPORT group over which the kernel spreads connections. Linux
    /// hands packets to such sockets (`bpf_sk_assign`) from 6.6 on.
    #[default]
    PerWorker,
    /// One socket, from which all workers accept.
    Shared,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            egress_port: 15001,
            ingress_port: 15006,
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 15021)),
            agent_socket: PathBuf::from("/run/heddle/default/proxy.sock"),
            state_dir: PathBuf::from("/run/heddle/default/proxy"),
            bind: Bind::Transparent,
            sharing: Sharing::default(),
            version: String::from(env!("CARGO_PKG_VERSION")),
            limits: Limits::default(),
        }
    }
}

/// Limits and time-outs. Time-outs that end idle things are checked once a second.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest request or response head in bytes; beyond it 431.
    pub header_bytes: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// From accept to the first byte of a connection whose protocol must be known.
    pub first_byte_timeout: Duration,
    /// A connection on which no byte moves for so long is closed.
    pub idle_timeout: Duration,
    /// For the TCP handshake with a backend.
    pub connect_timeout: Duration,
    /// How long a connection waits for the policy revision that its record names.
    pub revision_wait: Duration,
    /// How long a request body waits for the upstream's `100 Continue` (RFC 9110 section 10.1.1).
    pub continue_wait: Duration,
    /// From the order to stop to the end of what is still open.
    pub drain_max: Duration,
    /// An upstream connection without a request for so long is closed.
    pub pool_idle_timeout: Duration,
    /// Idle upstream connections kept for one client and backend, and thread.
    pub pool_per_key: usize,
    /// A request on which nothing moves in either direction for so long is ended: 504, or a reset if the answer has
    /// begun. 0 = never. Upgraded connections have `idle_timeout` instead.
    pub stream_idle_timeout: Duration,
    /// Longest request body in bytes; beyond it 413. 0 = any.
    pub request_body_bytes: u64,
    /// Open streams that one HTTP/2 client may have.
    pub h2_streams: u32,
    /// Bytes of a body in flight, per HTTP/2 stream and connection.
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    /// Streams that a client may have reset before they were looked at (CVE-2023-44487).
    pub h2_pending_resets: usize,
    /// Streams that a client may make the proxy reset by errors of its own (CVE-2025-8671).
    pub h2_error_resets: usize,
    /// Frames of one HTTP/2 connection and second that only make work (PING, SETTINGS, RST_STREAM, ...),
    /// besides ten for each useful one: HEADERS, DATA with bytes, a KiB of answers.
    pub h2_control_frames: u32,
    /// Bytes per direction that a relayed TCP connection or websocket buffers.
    pub relay_buffer: usize,
    /// Source ports tried for one upstream connection.
    pub port_attempts: usize,
    /// Client connections that one worker holds; beyond it new ones are reset.
    pub connections_per_worker: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 << 10,
            head_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            revision_wait: Duration::from_secs(5),
            continue_wait: Duration::from_secs(1),
            drain_max: Duration::from_secs(30),
            pool_idle_timeout: Duration::from_secs(60),
            pool_per_key: 128,
            stream_idle_timeout: Duration::from_secs(300),
            request_body_bytes: 0,
            h2_streams: 256,
            h2_stream_window: 256 << 10,
            h2_connection_window: 1 << 20,
            h2_pending_resets: 20,
            h2_error_resets: 1024,
            h2_control_frames: 1000,
            relay_buffer: 16 << 10,
            port_attempts: 64,
            connections_per_worker: 100_000,
        }
    }
}
