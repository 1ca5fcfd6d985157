//! The agent's end of the configuration stream: `proxy.sock`, one session for each proxy (two during a
//! hand-over). A session has one update in flight; whatever changes meanwhile becomes the next delta, so a
//! slow proxy costs neither memory nor the others' time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use l7_proxy::wire::{self, proxy_message::Kind};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::message::ProxyState;

/// How long a proxy has for its first message.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Longest frame that is taken from a proxy. Configurations go the other way; a batch of access records is
/// far smaller, and the proxy's user is not trusted with the agent's memory.
const PROXY_FRAME_MAX: usize = 16 << 20;
/// Most proxies connected at a time: one, its successor, and room for a mistake.
const SESSIONS_MAX: usize = 4;

/// A proxy says once a second that it lives. After this long without a word something is wrong with it.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Everything that proxies are told, and how far each has come.
#[derive(Clone, Debug)]
pub struct ProxyHub {
    wanted: watch::Sender<Option<Arc<ProxyState>>>,
    sessions: Arc<Mutex<BTreeMap<u64, ProxyStatus>>>,
    /// Counts changes of `sessions`.
    progress: watch::Sender<u64>,
    flows: mpsc::Sender<wire::Flows>,
    /// Access records that the agent itself could not take.
    lost: Counter,
}

/// One connected proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub pid: u32,
    pub version: String,
    /// Revision in force there; 0 = none yet.
    pub revision: u32,
    /// Why it refused the newest revision, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// It missed the time for an acknowledgement and has not caught up since.
    pub late: bool,
    #[serde(skip)]
    refused_revision: u32,
    /// When it last said anything.
    #[serde(skip)]
    heard: Option<Instant>,
}

impl ProxyStatus {
    /// For how long it has said nothing, if that is too long.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since(self.heard?);
        (silence > SILENCE_MAX).then_some(silence)
    }
}

/// How a wait for acknowledgements ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// No proxy is connected, or none that keeps up.
    NobodyAsked,
    ByAll,
    /// At least one did not answer in time.
    Late,
    Refused(String),
}

impl ProxyHub {
    /// A hub that nobody is connected to. Access records of all proxies go to `flows`; what does not fit
    /// is counted in `lost`.
    pub fn new(flows: mpsc::Sender<wire::Flows>, lost: Counter) -> Self {
        let (wanted, progress) = (watch::Sender::new(None), watch::Sender::new(0));
        Self { wanted, sessions: Arc::default(), progress, flows, lost }
    }

    /// Makes `state` the one that every proxy is brought to.
    pub fn publish(&self, state: Arc<ProxyState>) {
        self.wanted.send_replace(Some(state));
    }

    /// The connected proxies.
    pub fn status(&self) -> Vec<ProxyStatus> {
        self.with_sessions(|sessions| sessions.values().cloned().collect())
    }

    /// Waits until a proxy is connected, at most `max`.
    pub async fn connected(&self, max: Duration) {
        let mut progress = self.progress.subscribe();
        let arrival = async {
            while self.with_sessions(|sessions| sessions.is_empty()) && progress.changed().await.is_ok() {}
        };
        if timeout(max, arrival).await.is_err() {
            tracing::warn!("no proxy has come within {max:?}: not waited for");
        }
    }

    /// Waits until every proxy that keeps up has `revision` in force or refused it, at most `max`. Who is
    /// late once is not waited for again until it has caught up.
    pub async fn acknowledged(&self, revision: u32, max: Duration) -> Acknowledged {
        let mut progress = self.progress.subscribe();
        let pending =
            |s: &&mut ProxyStatus| s.revision < revision && s.refused_revision < revision && !s.late;
        if self.with_sessions(|sessions| sessions.values().all(|s| s.late)) {
            return Acknowledged::NobodyAsked;
        }
        let all_answered = async {
            while self.with_sessions(|sessions| sessions.values_mut().any(|s| pending(&s))) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let answered = timeout(max, all_answered).await.is_ok();
        self.with_sessions(|sessions| {
            if !answered {
                sessions.values_mut().filter(pending).for_each(|session| session.late = true);
                return Acknowledged::Late;
            }
            let refusal = sessions.values().find(|s| s.refused_revision >= revision);
            match refusal.and_then(|session| session.refused.clone()) {
                Some(reason) => Acknowledged::Refused(reason),
                None => Acknowledged::ByAll,
            }
        })
    }

    /// Serves proxies for ever. `uid`: whose processes may connect, besides root's.
    pub async fn serve(self, listener: UnixListener, uid: u32) {
        let mut number = 0;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("proxy.sock: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            number += 1;
            let (hub, number) = (self.clone(), number);
            tokio::spawn(async move {
                match hub.session(stream, uid, number).await {
                    Ok(()) => tracing::info!("proxy {number} has left"),
                    Err(error) => tracing::warn!("proxy {number}: {error}"),
                }
                hub.with_sessions(|sessions| sessions.remove(&number));
                hub.progress.send_modify(|count| *count += 1);
            });
        }
    }

    async fn session(&self, stream: UnixStream, uid: u32, number: u64) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        if peer != uid && peer != 0 {
            return Err(refusal(format!("user {peer} is not the proxy's ({uid}): refused")));
        }
        let (mut reader, writer) = stream.into_split();
        let first = timeout(HELLO_MAX, read_message(&mut reader)).await;
        let hello = match first.map_err(|_| refusal("no hello in 5 s".into()))?? {
            Some(Kind::Hello(hello)) => hello,
            Some(_) => return Err(refusal("its first message is no hello".into())),
            None => return Ok(()),
        };
        if hello.protocol_version != wire::PROTOCOL_VERSION {
            let (theirs, ours) = (hello.protocol_version, wire::PROTOCOL_VERSION);
            return Err(refusal(format!(
                "it speaks version {theirs} of the configuration stream, this agent {ours}: use the same release"
            )));
        }
        tracing::info!("proxy {number} connected: pid {}, revision {}", hello.pid, hello.revision);
        let status = ProxyStatus {
            pid: hello.pid,
            version: hello.version,
            heard: Some(Instant::now()),
            ..Default::default()
        };
        let full = self.with_sessions(|sessions| {
            let full = sessions.len() >= SESSIONS_MAX;
            if !full {
                sessions.insert(number, status);
            }
            full
        });
        if full {
            return Err(refusal(format!("{SESSIONS_MAX} proxies are connected already: refused")));
        }
        self.progress.send_modify(|count| *count += 1);
        let (acks, answers) = mpsc::channel(1);
        tokio::select! {
            result = self.read_all(reader, number, acks) => result,
            result = self.write_all(writer, answers) => result,
        }
    }

    /// Takes acknowledgements and access records until the proxy leaves.
    async fn read_all(
        &self,
        mut reader: OwnedReadHalf,
        number: u64,
        acks: mpsc::Sender<wire::Ack>,
    ) -> io::Result<()> {
        while let Some(message) = read_message(&mut reader).await? {
            self.with_sessions(|sessions| {
                sessions.entry(number).and_modify(|session| session.heard = Some(Instant::now()));
            });
            match message {
                Kind::Hello(_) => return Err(refusal("a second hello".into())),
                // A sign of life.
                Kind::Flows(flows) if flows.flows.is_empty() && flows.lost == 0 => {}
                Kind::Flows(flows) => {
                    // Never wait here: acknowledgements come the same way.
                    let records = flows.flows.len() as u64 + flows.lost;
                    if self.flows.try_send(flows).is_err() {
                        self.lost.inc_by(records);
                    }
                }
                Kind::Ack(ack) => {
                    self.note_ack(number, &ack);
                    if acks.send(ack).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn note_ack(&self, number: u64, ack: &wire::Ack) {
        let newest = self.wanted.borrow().as_ref().map_or(0, |state| state.revision);
        self.with_sessions(|sessions| {
            let Some(session) = sessions.get_mut(&number) else { return };
            if ack.error.is_empty() {
                session.revision = ack.revision;
                session.refused = None;
            } else {
                tracing::error!("proxy {number} refused revision {}: {}", ack.revision, ack.error);
                session.refused = Some(ack.error.clone());
                session.refused_revision = ack.revision;
            }
            session.late &= ack.revision < newest;
        });
        self.progress.send_modify(|count| *count += 1);
    }

    /// Sends what changed, one update at a time, until the proxy leaves.
    async fn write_all(
        &self,
        mut writer: OwnedWriteHalf,
        mut answers: mpsc::Receiver<wire::Ack>,
    ) -> io::Result<()> {
        let mut wanted = self.wanted.subscribe();
        wanted.mark_changed();
        // What the proxy has in force: the base of the next delta. After a refusal it gets everything.
        let mut base: Option<Arc<ProxyState>> = None;
        loop {
            if wanted.changed().await.is_err() {
                return Ok(());
            }
            let Some(state) = wanted.borrow_and_update().clone() else { continue };
            let update = state.delta(base.as_deref());
            write_frame(&mut writer, &update.encode_to_vec()).await?;
            let Some(ack) = answers.recv().await else { return Ok(()) };
            if ack.revision != state.revision {
                let (got, sent) = (ack.revision, state.revision);
                return Err(refusal(format!("it acknowledged revision {got}, {sent} was sent")));
            }
            base = ack.error.is_empty().then_some(state);
        }
    }

    fn with_sessions<T>(&self, f: impl FnOnce(&mut BTreeMap<u64, ProxyStatus>) -> T) -> T {
        // Nothing under this lock panics; were it so, the map would still be whole.
        f(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refusal(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The next message; `None` at the end of the stream.
async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Option<Kind>> {
    let length = match reader.read_u32().await {
        Ok(length) => length as usize,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    if length > PROXY_FRAME_MAX {
        return Err(refusal(format!("a frame of {length} bytes, the limit is {PROXY_FRAME_MAX}")));
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await?;
    let message = wire::ProxyMessage::decode(frame.as_slice()).map_err(|e| refusal(e.to_string()))?;
    message.kind.map(Some).ok_or_else(|| refusal("an empty message".into()))
}

async fn write_frame(writer: &mut OwnedWriteHalf, frame: &[u8]) -> io::Result<()> {
    if frame.len() > wire::FRAME_MAX {
        let length = frame.len();
        return Err(refusal(format!(
            "the configuration has {length} bytes, the limit is {}",
            wire::FRAME_MAX
        )));
    }
    writer.write_u32(frame.len() as u32).await?;
    writer.write_all(frame).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests;
