//! CIDRs of rules, with addresses in them, in their exceptions and just outside.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::rng::Rng;

/// A block, exceptions it may have, addresses inside and addresses just outside.
struct Block {
    cidr: &'static str,
    except: &'static [&'static str],
    inside: &'static [&'static str],
    outside: &'static [&'static str],
    /// Whether pods of the cluster have addresses in it (exceptions left aside).
    pods: bool,
}

const V4: &[Block] = &[
    Block {
        cidr: "198.51.100.0/24",
        except: &["198.51.100.128/25", "198.51.100.5/32", "198.51.100.64/26"],
        inside: &["198.51.100.0", "198.51.100.5", "198.51.100.127", "198.51.100.128", "198.51.100.255"],
        outside: &["198.51.99.255", "198.51.101.0"],
        pods: false,
    },
    Block {
        cidr: "198.51.100.64/26",
        except: &["198.51.100.64/28"],
        inside: &["198.51.100.64", "198.51.100.90", "198.51.100.127"],
        outside: &["198.51.100.63", "198.51.100.128"],
        pods: false,
    },
    Block {
        cidr: "203.0.113.0/25",
        except: &["203.0.113.0/30"],
        inside: &["203.0.113.1", "203.0.113.3", "203.0.113.4", "203.0.113.127"],
        outside: &["203.0.113.128", "203.0.112.255"],
        pods: false,
    },
    Block {
        cidr: "192.0.2.7/32",
        except: &[],
        inside: &["192.0.2.7"],
        outside: &["192.0.2.6", "192.0.2.8"],
        pods: false,
    },
    Block {
        cidr: "172.18.0.0/16",
        except: &["172.18.0.0/24", "172.18.5.0/24"],
        inside: &["172.18.0.2", "172.18.0.3", "172.18.0.9", "172.18.5.1", "172.18.255.255"],
        outside: &["172.19.0.0"],
        pods: false,
    },
    Block {
        cidr: "10.0.0.0/8",
        except: &["10.96.0.0/12", "10.0.1.0/24", "10.244.0.0/16"],
        inside: &["10.1.2.3", "10.97.0.1", "10.0.1.200", "10.244.200.1", "10.255.255.255"],
        outside: &["11.0.0.0", "9.255.255.255"],
        pods: true,
    },
    Block {
        cidr: "0.0.0.0/0",
        except: &["10.0.0.0/8", "198.51.100.0/24", "0.0.0.0/1"],
        inside: &["8.8.8.8", "198.51.100.7", "10.1.1.1", "127.0.0.53", "192.0.2.1"],
        outside: &[],
        pods: true,
    },
];

const V6: &[Block] = &[
    Block {
        cidr: "2001:db8::/32",
        except: &["2001:db8:1::/48", "2001:db8::7/128"],
        inside: &["2001:db8::7", "2001:db8:1::1", "2001:db8:ffff::1"],
        outside: &["2001:db9::", "2001:db7:ffff::1"],
        pods: false,
    },
    Block {
        cidr: "2001:db8:1::/48",
        except: &["2001:db8:1:8000::/49"],
        inside: &["2001:db8:1::1", "2001:db8:1:7fff::1", "2001:db8:1:8000::1"],
        outside: &["2001:db8:2::1"],
        pods: false,
    },
    Block {
        cidr: "2001:db8::7/128",
        except: &[],
        inside: &["2001:db8::7"],
        outside: &["2001:db8::8"],
        pods: false,
    },
    Block {
        cidr: "fd00::/16",
        except: &["fd00:10:244::/48", "fd00:18::/32"],
        inside: &["fd00:18::3", "fd00:18::99", "fd00:1::1"],
        outside: &["fd01::1"],
        pods: true,
    },
    Block {
        cidr: "::/0",
        except: &["2001:db8::/32", "8000::/1"],
        inside: &["2001:db8::5", "2a00::5", "fe00::1"],
        outside: &[],
        pods: true,
    },
];

/// What a block's field is called and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An element of `toCIDR` or `fromCIDR`.
    Plain,
    /// An element of `toCIDRSet` or `fromCIDRSet`.
    Set,
    /// A NetworkPolicy's `ipBlock`, which must cover no pod.
    IpBlock,
    /// A NetworkPolicy's `ipBlock` that may cover pods: we differ from Cilium there.
    IpBlockOverPods,
}

/// A block in `form`; addresses worth asking about are added to `near`.
pub(crate) fn block(rng: &mut Rng, cluster: &Cluster, form: Form, near: &mut Vec<String>) -> Value {
    let table = if cluster.ipv6 && rng.chance(35) { V6 } else { V4 };
    let block = loop {
        let block = rng.pick(table);
        if form == Form::IpBlock && block.pods || form == Form::IpBlockOverPods && !block.pods {
            continue;
        }
        break block;
    };
    near.extend(block.inside.iter().map(ToString::to_string));
    near.extend(block.outside.iter().map(ToString::to_string));
    let except = match form {
        Form::Plain => return json!(block.cidr),
        _ if !block.except.is_empty() && rng.chance(70) => rng.some(block.except, 2),
        _ => Vec::new(),
    };
    match except.is_empty() {
        true => json!({"cidr": block.cidr}),
        false => json!({"cidr": block.cidr, "except": except}),
    }
}
