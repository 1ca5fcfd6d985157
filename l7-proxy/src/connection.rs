//! One client connection from accept to end. [`serve`] is its whole life; what it is (TCP or HTTP) follows
//! from policy, who it is from the kernel's record and nothing else.

mod detect;
mod http;
mod http2;
mod tcp;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use abi::{Direction, DropReason};
use tokio::net::TcpStream;

use crate::balance;
use crate::config::{Config, Service, is_newer};
use crate::control::Control;
use crate::decide::{self, Denial, Judged};
use crate::flows::{FlowFields, FlowSource};
use crate::http::body::InFlight;
use crate::http::open::Open;
use crate::http::upgrade::Upgrade;
use crate::kernel::ConnectionRecord;
use crate::upstream::pool::Key;
use crate::upstream::{Face, face};
use crate::worker::Worker;

/// Verdicts of one connection remembered at a time (it may have many backends behind a VIP).
const MEMO_MAX: usize = 64;

/// What everything on one connection shares.
#[derive(Debug)]
pub struct Conn {
    pub worker: Rc<Worker>,
    pub client: SocketAddr,
    /// Original destination.
    pub destination: SocketAddr,
    pub record: ConnectionRecord,
    pub control: Arc<Control>,
    flow_source: FlowSource,
    memo: RefCell<Memo>,
    /// Set by the request that switched this connection to another protocol.
    pub upgrade: RefCell<Option<Upgrade>>,
    /// Requests that are being served.
    pub exchanges: RefCell<Vec<Rc<Open>>>,
}

/// Verdicts under one configuration.
#[derive(Debug)]
struct Memo {
    config: Arc<Config>,
    /// The kernel's record as of that configuration.
    record: ConnectionRecord,
    service: Option<Arc<Service>>,
    judged: Vec<Rc<Judged>>,
}

impl Memo {
    fn new(
        config: Arc<Config>,
        record: &ConnectionRecord,
        client: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        let service = record.vip.then(|| config.service(&destination).cloned()).flatten();
        let record = decide::as_of(&config, record, client, destination);
        Self { config, record, service, judged: Vec::new() }
    }
}

/// A backend and what policy says of it.
#[derive(Debug)]
pub struct Choice {
    pub judged: Rc<Judged>,
    pub in_flight: Option<InFlight>,
    pub revision: u32,
}

/// What a connection turns out to be.
enum Plan {
    Tcp,
    Http,
    Drop(Denial),
}

/// Serves one accepted connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr, control: Arc<Control>) {
    let Ok(local) = stream.local_addr() else { return };
    let destination = worker.kernel.original_destination(client, local);
    let record = match worker.kernel.connection(client, destination) {
        Ok(Some(record)) => record,
        Ok(None) => {
            drop_unknown(&worker, client, destination, "");
            return reset(&stream);
        }
        Err(error) => {
            tracing::warn!(%client, %destination, %error, "cannot look for a record");
            drop_unknown(&worker, client, destination, &error.to_string());
            return reset(&stream);
        }
    };
    let is_known = wait_for_revision(&worker, record.revision).await;
    let config = worker.config();
    let conn = Rc::new(Conn {
        flow_source: FlowSource::new(client, destination, record),
        memo: RefCell::new(Memo::new(config, &record, client, destination)),
        upgrade: RefCell::default(),
        exchanges: RefCell::default(),
        worker,
        client,
        destination,
        record,
        control,
    });
    if !is_known {
        conn.drop_denied(&denial(DropReason::PolicyRevision), "");
        return reset(&stream);
    }
    match conn.plan() {
        Plan::Drop(denial) => {
            conn.drop_denied(&denial, "TCP");
            reset(&stream);
        }
        Plan::Tcp => tcp::serve(&conn, stream).await,
        Plan::Http => http::serve(conn, stream).await,
    }
}

/// Counts and records a connection that the kernel did not give us; nobody can say whose it is.
fn drop_unknown(worker: &Worker, client: SocketAddr, destination: SocketAddr, detail: &str) {
    tracing::debug!(%client, %destination, "no record of this connection");
    worker.stats.dropped(DropReason::NoRecord);
    worker.flows.record(
        &FlowSource::new(client, destination, ConnectionRecord::default()),
        &FlowFields {
            reason: Some(DropReason::NoRecord),
            detail,
            protocol: "TCP",
            revision: worker.config().revision,
            ..FlowFields::default()
        },
    );
}

/// The kernel may be ahead of our configuration for a moment; it never is for long.
async fn wait_for_revision(worker: &Worker, wanted: u32) -> bool {
    let mut revision = worker.current.watch();
    if !is_newer(wanted, *revision.borrow()) {
        return true;
    }
    let arrived = revision.wait_for(|have| !is_newer(wanted, *have));
    tokio::time::timeout(worker.settings.limits.revision_wait, arrived).await.is_ok_and(|r| r.is_ok())
}

/// Ends the connection by RST, so that the client knows at once and nothing half-way stays.
pub fn reset(stream: &TcpStream) {
    // A socket that is gone already cannot be reset, nor needs to be.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn denial(reason: DropReason) -> Denial {
    Denial { reason, rule: 0, direction: Direction::Egress, why: String::new() }
}

impl Conn {
    /// Chooses a backend for the next request or connection, by the configuration in force now.
    ///
    /// Policy does not take part in the choice: a backend that it denies is denied, even if another one
    /// would be allowed. The kernel decides the same way for services that it translates.
    pub fn choose(&self) -> Result<Choice, Denial> {
        let mut memo = self.memo.borrow_mut();
        self.refresh(&mut memo);
        let revision = memo.config.revision;
        if !self.record.vip {
            let judged = memo.judged(self.destination);
            return Ok(Choice { judged, in_flight: None, revision });
        }
        let service = memo.service.clone().ok_or_else(|| denial(DropReason::NoService))?;
        let backend =
            balance::pick(&service, self.client.ip()).ok_or_else(|| denial(DropReason::NoBackend))?;
        let in_flight = Some(InFlight::new(Arc::clone(&backend.active)));
        let judged = memo.judged(backend.address);
        Ok(Choice { judged, in_flight, revision })
    }

    /// What policy says now of a target chosen before.
    pub fn rejudge(&self, target: SocketAddr) -> Rc<Judged> {
        let mut memo = self.memo.borrow_mut();
        self.refresh(&mut memo);
        memo.judged(target)
    }

    fn refresh(&self, memo: &mut Memo) {
        self.worker.with_config(|config| {
            if !Arc::ptr_eq(config, &memo.config) {
                *memo = Memo::new(Arc::clone(config), &self.record, self.client, self.destination);
                self.flow_source.set_record(memo.record);
            }
        });
    }

    /// What this connection is: HTTP if any request on it might have to be looked at.
    fn plan(&self) -> Plan {
        let mut memo = self.memo.borrow_mut();
        if !self.record.vip {
            return plan_of(&memo.judged(self.destination));
        }
        let Some(service) = memo.service.clone() else {
            return Plan::Drop(denial(DropReason::NoService));
        };
        let mut plan = Plan::Drop(denial(DropReason::NoBackend));
        for backend in &service.backends {
            match plan_of(&memo.judged(backend.address)) {
                Plan::Http => return Plan::Http,
                Plan::Tcp => plan = Plan::Tcp,
                Plan::Drop(denial) if matches!(plan, Plan::Drop(_)) => plan = Plan::Drop(denial),
                Plan::Drop(_) => {}
            }
        }
        plan
    }

    /// Whose address a connection to `judged` bears, and what it may be used again for.
    pub fn upstream_key(&self, judged: &Judged) -> Key {
        let bind = self.worker.settings.bind;
        let face: Face = face(bind, &self.record, self.client.ip(), judged.target, judged.peer);
        Key { face, src_identity: self.record.src_identity, target: judged.target }
    }

    /// Writes an access record.
    pub fn flow(&self, fields: &FlowFields<'_>) {
        self.worker.flows.record(&self.flow_source, fields);
    }

    /// Counts and records a connection that policy ended.
    pub fn drop_denied(&self, denial: &Denial, protocol: &str) {
        self.worker.stats.dropped(denial.reason);
        self.flow(&FlowFields {
            reason: Some(denial.reason),
            detail: &denial.why,
            rule: denial.rule,
            direction: Some(denial.direction),
            protocol,
            revision: self.memo.borrow().config.revision,
            ..FlowFields::default()
        });
    }

    /// Counts and records bytes that are no request.
    pub fn drop_protocol(&self, reason: DropReason, status: u16, detail: &str) {
        self.worker.stats.dropped(reason);
        self.flow(&FlowFields {
            reason: Some(reason),
            detail,
            protocol: "HTTP",
            status,
            revision: self.memo.borrow().config.revision,
            ..FlowFields::default()
        });
    }
}

fn plan_of(judged: &Judged) -> Plan {
    match &judged.verdict {
        Err(denial) => Plan::Drop(denial.clone()),
        Ok(_) if judged.needs_http() => Plan::Http,
        Ok(_) => Plan::Tcp,
    }
}

impl Memo {
    fn judged(&mut self, target: SocketAddr) -> Rc<Judged> {
        if let Some(known) = self.judged.iter().find(|known| known.target == target) {
            return Rc::clone(known);
        }
        let record = &self.record;
        let mut peer = decide::peer(&self.config, target);
        if !record.vip {
            // The kernel knew it better: it saw the packet.
            (peer.identity, peer.endpoint) = (record.dst_identity, record.dst_endpoint);
        }
        let judged = Rc::new(decide::judge(&self.config, record, target, peer));
        if self.judged.len() >= MEMO_MAX {
            self.judged.clear();
        }
        self.judged.push(Rc::clone(&judged));
        judged
    }
}
