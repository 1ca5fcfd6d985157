//! A connection without layer 7: bytes both ways, until somebody is done or policy says no.

use std::rc::Rc;
use std::time::Instant;

use abi::{Direction, DropReason};
use tokio::net::TcpStream;

use super::{Conn, reset};
use crate::decide::{Denial, Judged};
use crate::flows::FlowFields;
use crate::metrics::Carries;
use crate::relay::{End, relay};
use crate::upstream::socket::connect;

/// Connects to the (chosen) destination and relays.
pub(super) async fn serve(conn: &Rc<Conn>, mut client: TcpStream) {
    conn.control.may_be_silent();
    let started = Instant::now();
    let worker = &conn.worker;
    let choice = match conn.choose() {
        Ok(choice) => choice,
        Err(denial) => {
            conn.drop_denied(&denial, "TCP");
            return reset(&client);
        }
    };
    let judged = &choice.judged;
    let mut fields = FlowFields {
        backend: &judged.text,
        target: Some((judged.peer.identity, judged.peer.endpoint)),
        protocol: "TCP",
        revision: choice.revision,
        ..FlowFields::default()
    };
    match may_pass(judged) {
        Ok(rule) => fields.rule = rule,
        Err(denial) => {
            conn.drop_denied(&denial, "TCP");
            return reset(&client);
        }
    }
    let (face, limits) = (conn.upstream_key(judged).face, &worker.settings.limits);
    let connected = connect(face, judged.target, &worker.ports, limits.port_attempts, limits.connect_timeout);
    let mut upstream = match connected.await {
        Ok(upstream) => upstream,
        Err(error) => {
            worker.stats.upstream_connect(false);
            worker.stats.dropped(DropReason::UpstreamUnreachable);
            let detail = error.to_string();
            conn.flow(&FlowFields {
                reason: Some(DropReason::UpstreamUnreachable),
                detail: &detail,
                latency: started.elapsed(),
                ..fields
            });
            return reset(&client);
        }
    };
    worker.stats.upstream_connect(true);
    worker.stats.carries(Carries::Tcp);
    conn.flow(&FlowFields { latency: started.elapsed(), ..fields });
    let recheck = || may_pass(&conn.rejudge(judged.target)).map(drop);
    let end = relay(&mut client, &mut upstream, &conn.control, limits.relay_buffer, recheck).await;
    if let End::Revoked(denial) = &end {
        conn.drop_denied(denial, "TCP");
    }
    if !matches!(end, End::Done) {
        reset(&client);
        reset(&upstream);
    }
}

/// The rule that lets bytes pass unread.
fn may_pass(judged: &Judged) -> Result<u32, Denial> {
    let rule = judged.verdict.clone()?;
    if judged.needs_strict_http() {
        return Err(Denial {
            reason: DropReason::StrictRedirect,
            rule,
            direction: Direction::Egress,
            why: String::from("requests must be looked at now"),
        });
    }
    Ok(rule)
}
