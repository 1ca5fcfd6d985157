//! Why a packet or connection was dropped: stable numbers, never reused, one name everywhere.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet or connection was dropped. Numbers below 200 mean what they mean in Cilium.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant = $number,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in metrics, logs, events and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The source address is not the endpoint's own.
    InvalidSourceIp = 132, "INVALID_SOURCE_IP";
    /// No rule allows it (default deny).
    PolicyDenied = 133, "POLICY_DENIED";
    /// The packet is too short or contradicts itself.
    InvalidPacket = 134, "INVALID_PACKET";
    /// Neither IPv4, IPv6 nor ARP: an unknown EtherType, a VLAN tag.
    UnsupportedL2 = 140, "UNSUPPORTED_L2_PROTOCOL";
    /// A protocol that policy cannot speak about.
    UnsupportedL4 = 142, "UNSUPPORTED_L4_PROTOCOL";
    /// The connection map is full.
    ConnectionMapFull = 155, "CONNECTION_MAP_FULL";
    /// A fragment whose first part was not seen.
    FragmentNotFound = 157, "FRAGMENT_NOT_FOUND";
    /// An IPv6 extension header that is not understood, or too many.
    InvalidExtensionHeader = 156, "INVALID_EXTENSION_HEADER";
    /// A service without this port, or a VIP that nobody translated.
    NoService = 158, "NO_SERVICE";
    /// An explicit deny rule.
    PolicyDeny = 181, "POLICY_DENY";
    /// The proxy does not listen.
    ProxyUnavailable = 200, "PROXY_UNAVAILABLE";
    /// The kernel refused to give the packet to the proxy's socket.
    SocketAssign = 201, "SOCKET_ASSIGN_FAILED";
    /// A source port that the proxy uses for this very connection.
    PortCollision = 202, "RESERVED_PORT_COLLISION";
    /// A packet for a pod that no program has decided about.
    NotDecided = 203, "NOT_DECIDED";
    /// The veth's endpoint is not known (yet).
    UnknownEndpoint = 204, "UNKNOWN_ENDPOINT";
    /// The endpoint has no policy in the kernel.
    NoPolicy = 205, "NO_POLICY";
    /// A pod speaks to a tunnel port.
    TunnelPort = 206, "TUNNEL_PORT";
    /// The agent has not configured the programs.
    NotConfigured = 207, "NOT_CONFIGURED";
    /// A live direct connection that policy now sends through layer 7.
    StrictRedirect = 208, "STRICT_REDIRECT";
    /// A service without a ready backend.
    NoBackend = 209, "NO_BACKEND";
    /// A mesh endpoint's proxy does not know the listener or revision of a connection.
    PolicyRevision = 210, "POLICY_REVISION";
    /// A connection reached the proxy without a record of the kernel.
    NoRecord = 211, "NO_RECORD";
    /// An HTTP request that no rule allows.
    HttpDenied = 212, "HTTP_DENIED";
    /// Bytes that are not the protocol that the policy names.
    ProtocolError = 213, "PROTOCOL_ERROR";
    /// A limit of the proxy was exceeded.
    LimitExceeded = 214, "LIMIT_EXCEEDED";
    /// The backend cannot be reached.
    UpstreamUnreachable = 215, "UPSTREAM_UNREACHABLE";
    /// A fragment of a connection that belongs to the proxy: only a whole packet can be given to a socket.
    FragmentRedirect = 216, "FRAGMENT_REDIRECT";
    /// The pod has as many connections as it may.
    ConnectionLimit = 217, "CONNECTION_LIMIT";
}
