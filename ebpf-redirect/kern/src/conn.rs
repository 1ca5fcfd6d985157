//! The connection map: finding, refreshing and opening entries.

use abi::{ConnEntry, ConnKey, DropReason, conn_flags, conn_timeout_ns, proto};

use crate::{
    account,
    decide::Opener,
    flow::{Current, FAILED, tcp},
    maps::CONNECTIONS,
};

const BOTH_FIN: u32 = conn_flags::FIN_FORWARD | conn_flags::FIN_REVERSE;

/// The live connection that has `key`.
#[inline(always)]
pub fn find(key: &ConnKey, now_ns: u64) -> Option<&'static mut ConnEntry> {
    let entry = unsafe { &mut *CONNECTIONS.get_ptr_mut(key)? };
    if entry.expires_ns <= now_ns {
        return None;
    }
    Some(entry)
}

/// Notes the packet in hand in its connection. Far from expiry nothing is written: the entry is shared by
/// all CPUs.
#[inline(never)]
pub fn refresh(flow: Current, entry: &mut ConnEntry, opener: Opener) {
    let mut flags = entry.flags;
    let fin = if opener as u8 == Opener::Sender as u8 {
        if flags & conn_flags::REPLIED != 0 {
            flags |= conn_flags::ASSURED;
        }
        conn_flags::FIN_FORWARD
    } else {
        flags |= conn_flags::REPLIED;
        conn_flags::FIN_REVERSE
    };
    if flow.tcp_flags & tcp::FIN != 0 {
        flags |= fin;
    }
    if flow.tcp_flags & tcp::RST != 0 {
        flags |= conn_flags::RST;
    }
    renew(flow, entry, flags);
}

/// Sets flags and, if it matters, the time of expiry.
#[inline(always)]
pub fn renew(flow: Current, entry: &mut ConnEntry, flags: u32) {
    let lifetime = lifetime_ns(flow, flags);
    let expires = flow.now_ns + lifetime;
    let changed = flags != entry.flags;
    if changed {
        entry.flags = flags;
    }
    // A change of state may shorten the life; otherwise it is worth a write after an eighth of it.
    if changed || expires > entry.expires_ns + lifetime / 8 {
        entry.expires_ns = expires;
    }
}

/// How long a connection in this state may be silent.
#[inline(always)]
fn lifetime_ns(flow: Current, flags: u32) -> u64 {
    if flow.key.proto == proto::TCP {
        if flags & conn_flags::RST != 0 {
            // A forged RST must not end a connection: one that goes on is kept by its own packets.
            return if flow.tcp_flags & tcp::RST != 0 {
                conn_timeout_ns::TCP_CLOSING
            } else {
                conn_timeout_ns::TCP_OPENING
            };
        }
        if flags & BOTH_FIN == BOTH_FIN {
            return conn_timeout_ns::TCP_CLOSING;
        }
        // The proxy's own RST is not seen here: what it may have ended must not stay for hours.
        let half = flags & conn_flags::REDIRECTED != 0 && flags & BOTH_FIN != 0;
        if flags & conn_flags::REPLIED == 0 {
            return conn_timeout_ns::TCP_SYN;
        }
        if flags & conn_flags::ASSURED == 0 || half {
            return conn_timeout_ns::TCP_OPENING;
        }
        return conn_timeout_ns::TCP_ESTABLISHED;
    }
    if flow.is_icmp() {
        conn_timeout_ns::ICMP
    } else if flags & conn_flags::ASSURED != 0 {
        conn_timeout_ns::UDP_STREAM
    } else {
        conn_timeout_ns::UDP
    }
}

/// Opens a connection for the packet in hand, in the place of a dead one of the same tuple.
///
/// # Errors
/// [`DropReason::ConnectionLimit`] and [`DropReason::ConnectionMapFull`].
#[inline(always)]
pub fn open(flow: Current, revision: u32, flags: u32) -> Result<(), DropReason> {
    flow.outcome(open_connection(revision, flags))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_connection(revision: u32, flags: u32) -> u32 {
    let Some(flow) = Current::fetch() else { return FAILED };
    flow.code(enter(flow, revision, flags))
}

#[inline(always)]
fn enter(mut flow: Current, revision: u32, flags: u32) -> Result<(), DropReason> {
    let account = account::of_sender(flow);
    flow.fresh = ConnEntry {
        expires_ns: flow.now_ns + lifetime_ns(flow, flags),
        revision,
        flags,
        src_identity: flow.src.identity,
        dst_identity: if flags & conn_flags::VIP != 0 { 0 } else { flow.dst.identity },
        src_endpoint: flow.src.endpoint,
        dst_endpoint: if flags & conn_flags::VIP != 0 { 0 } else { flow.dst.endpoint },
        rule: flow.rule,
        account,
    };
    let charged = match CONNECTIONS.get_ptr(&flow.key) {
        Some(old) => unsafe { (*old).account == account },
        None => false,
    };
    if !charged && !account::may_open(account)? {
        return Err(DropReason::ConnectionLimit);
    }
    CONNECTIONS.insert(&flow.key, &flow.fresh, 0).map_err(|_| DropReason::ConnectionMapFull)?;
    if !charged {
        account::charge(account);
    }
    Ok(())
}

/// Forgets a connection.
#[inline(always)]
pub fn close(key: &ConnKey) {
    // Not there is as good as removed.
    let _ = CONNECTIONS.remove(key);
}
