//! Live connections under a new policy revision: the first packet of each is decided anew, in either direction,
//! at whichever hook it comes by.

use abi::{ConnEntry, DropReason, EventKind, Verdict, conn_flags};

use crate::{
    conn,
    decide::{self, Opener},
    event,
    flow::{Current, Hook},
};

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It goes on.
    Same,
    /// It must not go on as it did, and its packet shall get a RST from the listener. Its entry is gone.
    Strict,
    /// One of its addresses has another owner now: the packet belongs to no connection. Its entry is gone.
    Stranger,
}

/// Decides a live connection anew under `revision`, and enters who its ends are now: the proxy trusts that.
///
/// # Errors
/// The reason why it ends.
#[inline(always)]
pub fn revalidate(
    mut flow: Current,
    entry: &mut ConnEntry,
    revision: u32,
    opener: Opener,
) -> Result<Renewed, DropReason> {
    let sent = opener as u8 == Opener::Sender as u8;
    let (from, to) = if sent { (flow.src, flow.dst) } else { (flow.dst, flow.src) };
    let key = if sent { &flow.key } else { &flow.other };
    if entry.src_endpoint != from.endpoint || entry.dst_endpoint != to.endpoint {
        conn::close(key);
        return Ok(Renewed::Stranger);
    }
    if entry.flags & conn_flags::VIP == 0 {
        decide::decide(flow, opener);
        let direct = entry.flags & conn_flags::REDIRECTED == 0;
        match flow.verdict {
            Verdict::Drop(reason) => {
                conn::close(key);
                flow.drop_kind = EventKind::Revoked;
                return Err(reason);
            }
            Verdict::Redirect { lenient: false } if direct => {
                conn::close(key);
                flow.drop_kind = EventKind::Revoked;
                if flow.hook as u8 == Hook::ToPod as u8 || entry.flags & conn_flags::FROM_NODE != 0 {
                    // No socket can be given a packet here.
                    return Err(DropReason::StrictRedirect);
                }
                event::emit(flow, EventKind::Revoked, DropReason::StrictRedirect as u8);
                return Ok(Renewed::Strict);
            }
            // A redirected connection stays with the proxy though its rule is gone; a direct one may stay
            // direct under a lenient redirect.
            Verdict::Redirect { .. } | Verdict::Allow => {}
        }
        entry.rule = flow.rule;
        entry.dst_identity = to.identity;
    }
    // Of a kept VIP the proxy decides for each backend that it chooses.
    entry.src_identity = from.identity;
    entry.revision = revision;
    Ok(Renewed::Same)
}
