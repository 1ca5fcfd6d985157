//! Policy, asked: L3/L4 by [`abi::decide`] for a connection and target, then HTTP for each request.
//!
//! Egress of the client's endpoint first, then ingress of the server's, each only if it is a pod of this
//! node. What is not known here (an endpoint without policy) is denied.

use std::net::SocketAddr;
use std::sync::Arc;

use abi::{Decision, Direction, DropReason, Verdict, decide, proto};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use policy::l7::{HeaderAction, Headers, L7Verdict, RequestHead};

use crate::config::{Config, Endpoint, Peer};
use crate::kernel::ConnectionRecord;

/// Why something does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: DropReason,
    pub rule: u32,
    pub direction: Direction,
    /// For people: what of the nearest rule did not match; empty for L3/L4.
    pub why: String,
}

/// What policy says of one client and target, before any request.
#[derive(Debug)]
pub struct Judged {
    pub target: SocketAddr,
    /// `target` as text, for records.
    pub text: String,
    pub peer: Peer,
    /// Identity of the client.
    src_identity: u32,
    /// The rule that decided, or the denial.
    pub verdict: Result<u32, Denial>,
    /// Endpoints whose HTTP policy has a say, egress first.
    l7: [Option<Arc<Endpoint>>; 2],
    /// Whether policy demands that (and does not just wish to see requests).
    strict: bool,
}

impl Judged {
    /// Whether requests must be looked at.
    pub fn needs_http(&self) -> bool {
        self.verdict.is_ok() && self.l7.iter().any(Option::is_some)
    }

    /// Whether any request must have the same verdict from both.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Endpoint>>, b: &Option<Arc<Endpoint>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.target == other.target
            && self.peer == other.peer
            && self.src_identity == other.src_identity
            && self.verdict == other.verdict
            && self.l7.iter().zip(&other.l7).all(|(a, b)| same(a, b))
    }

    /// Whether bytes that are already passing unread must stop.
    pub fn needs_strict_http(&self) -> bool {
        self.needs_http() && self.strict
    }
}

/// Who has `address`; what nobody knows is the world.
pub fn peer(config: &Config, address: SocketAddr) -> Peer {
    let unknown = Peer { identity: abi::IDENTITY_WORLD, endpoint: 0, flags: 0 };
    config.ipcache.lookup(address.ip()).unwrap_or(unknown)
}

/// What `record` says, as of `config`: the kernel decides a live connection anew when policy changes but
/// leaves its record as it was, and by then the labels behind an address may be others, or the pod.
pub fn as_of(
    config: &Config,
    record: &ConnectionRecord,
    client: SocketAddr,
    target: SocketAddr,
) -> ConnectionRecord {
    let mut now = *record;
    if config.revision != record.revision {
        let source = peer(config, client);
        // As the kernel has it: the identity of the address, if that is still the pod's, or of the pod. For
        // a pod that is gone it does not matter; it has no policy, and that denies.
        let pod = config.endpoint(record.src_endpoint).filter(|pod| pod.id != source.endpoint);
        now.src_identity = pod.map_or(source.identity, |pod| pod.identity);
        let destination = peer(config, target);
        // The same for a server that is gone: it stays an endpoint, one without policy.
        if !record.vip && (record.dst_endpoint == 0 || destination.endpoint != 0) {
            (now.dst_identity, now.dst_endpoint) = (destination.identity, destination.endpoint);
        }
    }
    now
}

/// Decides for the client of `record` and `target`, which belongs to `peer`.
pub fn judge(config: &Config, record: &ConnectionRecord, target: SocketAddr, peer: Peer) -> Judged {
    let sides = [
        (Direction::Egress, record.src_endpoint, peer.identity),
        (Direction::Ingress, peer.endpoint, record.src_identity),
    ];
    let (mut l7, mut strict) = ([None, None], false);
    // The kernel redirects for a pod of this node only; a record without one is none of ours.
    let mut verdict = Err(Denial {
        reason: DropReason::NoPolicy,
        rule: 0,
        direction: Direction::Ingress,
        why: String::new(),
    });
    for (slot, (direction, endpoint, identity)) in sides.into_iter().enumerate() {
        if endpoint == 0 {
            continue;
        }
        match side(config, direction, endpoint, identity, target.port()) {
            Ok((rule, ask)) => {
                verdict = Ok(rule);
                strict |= ask.as_ref().is_some_and(|(_, lenient)| !lenient);
                l7[slot] = ask.map(|(endpoint, _)| endpoint);
            }
            Err(denial) => {
                verdict = Err(denial);
                break;
            }
        }
    }
    Judged { target, text: target.to_string(), peer, src_identity: record.src_identity, verdict, l7, strict }
}

/// An endpoint whose HTTP policy must be asked, and whether that is lenient.
type Ask = (Arc<Endpoint>, bool);

fn side(
    config: &Config,
    direction: Direction,
    endpoint: u32,
    identity: u32,
    port: u16,
) -> Result<(u32, Option<Ask>), Denial> {
    let deny = |reason, rule| Denial { reason, rule, direction, why: String::new() };
    let endpoint = config.endpoint(endpoint).ok_or_else(|| deny(DropReason::NoPolicy, 0))?;
    let Decision { verdict, rule } = decide(&endpoint.entries, identity, direction, proto::TCP, port);
    match verdict {
        Verdict::Allow => Ok((rule, None)),
        Verdict::Redirect { lenient } => Ok((rule, Some((Arc::clone(endpoint), lenient)))),
        Verdict::Drop(reason) => Err(deny(reason, rule)),
    }
}

impl Judged {
    /// Decides one request, whose head is canonical. Header changes that egress rules ask for are made
    /// before ingress rules look. Returns the rule that let it pass.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        host: &str,
        headers: &mut HeaderMap,
    ) -> Result<u32, Denial> {
        let mut rule = self.verdict.clone()?;
        let port = self.target.port();
        let sides = [(Direction::Egress, self.peer.identity), (Direction::Ingress, self.src_identity)];
        for ((direction, peer), endpoint) in sides.into_iter().zip(&self.l7) {
            let Some(endpoint) = endpoint else { continue };
            let view = HeaderView(headers);
            let head = RequestHead { method, path, host, headers: &view };
            match endpoint.l7.decide(direction, peer, port, &head) {
                L7Verdict::Allow { rule: allowed_by, actions } => {
                    rule = allowed_by;
                    actions.iter().try_for_each(|action| change(headers, action)).map_err(|why| Denial {
                        reason: DropReason::HttpDenied,
                        rule: allowed_by,
                        direction,
                        why,
                    })?;
                }
                L7Verdict::Deny { nearest, why } => {
                    let reason = DropReason::HttpDenied;
                    return Err(Denial { reason, rule: nearest, direction, why });
                }
            }
        }
        Ok(rule)
    }
}

/// Makes a change that `headerMatches` asks for. A name or value that no header can have denies.
fn change(headers: &mut HeaderMap, action: &HeaderAction) -> Result<(), String> {
    let name =
        |text: &String| HeaderName::try_from(text).map_err(|_| format!("header name {text:?} is not valid"));
    let value = |text: &String| {
        HeaderValue::try_from(text).map_err(|_| format!("header value {text:?} is not valid"))
    };
    match action {
        HeaderAction::Log { .. } => {}
        HeaderAction::Add { name: n, value: v } => {
            headers.append(name(n)?, value(v)?);
        }
        HeaderAction::Delete { name: n } => {
            headers.remove(name(n)?);
        }
        HeaderAction::Replace { name: n, value: v } => {
            headers.insert(name(n)?, value(v)?);
        }
    }
    Ok(())
}

/// The headers of a request as policy looks at them.
#[derive(Debug)]
struct HeaderView<'a>(&'a HeaderMap);

impl Headers for HeaderView<'_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for value in self.0.get_all(name) {
            if !visit(value.as_bytes()) {
                return;
            }
        }
    }
}
