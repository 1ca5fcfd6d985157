//! Addresses and the ipcache: from an address to the identity behind it.

/// An IP address, 16 bytes in network order; IPv4 is kept as its IPv4-mapped form `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// `::ffff:0:0/96`, the word in front of an IPv4 address, in network order.
    pub const V4_WORD: u32 = 0xffff_u32.to_be();

    /// From the four octets of an IPv4 address.
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, Self::V4_WORD, u32::from_ne_bytes(octets)])
    }

    /// From the sixteen octets of an IPv6 address. A mapped address becomes IPv4.
    pub const fn v6(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_WORD
    }

    /// The sixteen octets in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let (a, b) = (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        let (c, d) = (self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// The IPv4 octets, for an address of which [`is_v4`](Self::is_v4) holds.
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }
}

/// Key of map `IPCACHE` (LPM trie). An IPv4 prefix of n bits has `prefix_len` 96 + n.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpcacheKey {
    pub prefix_len: u32,
    pub addr: Addr,
}

/// Value of map `IPCACHE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpcacheEntry {
    /// Security identity of whatever has this address.
    pub identity: u32,
    /// Endpoint id if it is a pod of this node, otherwise 0.
    pub endpoint: u32,
    /// See [`ipcache_flags`].
    pub flags: u32,
    /// The node's IPv4 address in network order, for a pod of another node; otherwise 0.
    pub node: u32,
}

/// Bits of [`IpcacheEntry::flags`].
pub mod ipcache_flags {
    /// A service's virtual IP. No packet may leave for it untranslated and unredirected.
    pub const SERVICE_VIP: u32 = 1;
    /// An address of this node.
    pub const LOCAL_NODE: u32 = 2;
    /// An address of another node.
    pub const REMOTE_NODE: u32 = 4;
    /// A pod's address, or one out of a range for pods. Identity numbers do not tell: those of pods inside
    /// an `ipBlock` are as node-local as those of CIDRs.
    pub const POD: u32 = 8;
}
