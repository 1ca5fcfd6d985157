//! The connection to the agent: configuration comes in, acknowledgements and access records go out.
//!
//! Reconnects for ever with back-off; while it is away the proxy serves what it has. A refused update is
//! answered with its error and changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use super::Config;
use super::persist::Store;
use crate::flows::FlowBatch;
use crate::settings::Settings;
use crate::wire::proxy_message::Kind;
use crate::wire::{Ack, ConfigUpdate, FRAME_MAX, Flows, Hello, PROTOCOL_VERSION, ProxyMessage};

/// First and longest pause between two attempts to reach the agent. An attempt costs microseconds, and an
/// agent that comes back waits for us before it changes anything.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// How often the agent is told that we live, by a message without access records.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);
/// Acknowledgements on their way; the agent waits for each, so there are never many.
const ACKS_MAX: usize = 16;

/// The configuration that all workers read, and the news that there is another.
#[derive(Debug)]
pub struct Current {
    config: Arc<ArcSwap<Config>>,
    revision: watch::Sender<u32>,
}

impl Current {
    /// Starts with `config`.
    pub fn new(config: Config) -> Self {
        let revision = watch::Sender::new(config.revision);
        Self { config: Arc::new(ArcSwap::from_pointee(config)), revision }
    }

    /// The pointer, for [`arc_swap::Cache`].
    pub fn pointer(&self) -> Arc<ArcSwap<Config>> {
        Arc::clone(&self.config)
    }

    /// The configuration in force.
    pub fn load(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Told of every new revision, after it is in force.
    pub fn watch(&self) -> watch::Receiver<u32> {
        self.revision.subscribe()
    }

    /// Puts `config` in force on every worker.
    pub fn replace(&self, config: Config) {
        let revision = config.revision;
        self.config.store(Arc::new(config));
        self.revision.send_replace(revision);
    }
}

/// Talks to the agent until dropped.
pub async fn run(
    settings: &Settings,
    current: &Current,
    mut store: Store,
    mut flows: mpsc::Receiver<FlowBatch>,
) {
    let mut pause = BACK_OFF.0;
    loop {
        match UnixStream::connect(&settings.agent_socket).await {
            Ok(stream) => {
                tracing::info!(socket = %settings.agent_socket.display(), "connected to the agent");
                pause = BACK_OFF.0;
                if let Err(error) = talk(stream, settings, current, &mut store, &mut flows).await {
                    tracing::warn!(%error, "lost the agent; serving revision {} on", current.load().revision);
                }
            }
            Err(error) => log_absent(&settings.agent_socket, &error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

fn log_absent(path: &Path, error: &io::Error) {
    tracing::debug!(socket = %path.display(), %error, "the agent does not answer");
}

async fn talk(
    stream: UnixStream,
    settings: &Settings,
    current: &Current,
    store: &mut Store,
    flows: &mut mpsc::Receiver<FlowBatch>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let hello = Kind::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        version: settings.version.clone(),
        pid: std::process::id(),
        revision: current.load().revision,
    });
    send(&mut writer, hello).await?;
    let (acks, acks_to_send) = mpsc::channel(ACKS_MAX);
    tokio::select! {
        done = receive(reader, current, store, acks) => done,
        done = transmit(writer, acks_to_send, flows) => done,
    }
}

async fn receive(
    mut reader: OwnedReadHalf,
    current: &Current,
    store: &mut Store,
    acks: mpsc::Sender<Ack>,
) -> io::Result<()> {
    loop {
        let length = reader.read_u32().await? as usize;
        if length > FRAME_MAX {
            return Err(io::Error::other("frame over limit"));
        }
        let mut frame = vec![0; length];
        reader.read_exact(&mut frame).await?;
        let update = ConfigUpdate::decode(frame.as_slice()).map_err(io::Error::other)?;
        let error = take(current, store, &update).err().unwrap_or_default();
        if !error.is_empty() {
            tracing::error!(revision = update.revision, error, "configuration refused");
        }
        let ack = Ack { revision: update.revision, error };
        acks.send(ack).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
}

/// Puts an update in force, then on disk. An error means that what was before stays in force, or that a
/// restart would not find what is.
fn take(current: &Current, store: &mut Store, update: &ConfigUpdate) -> Result<(), String> {
    let next = current.load().apply(update).map_err(|error| error.to_string())?;
    current.replace(next);
    tracing::debug!(revision = update.revision, full = update.full, "configuration in force");
    store.save(update).map_err(|error| error.to_string())
}

async fn transmit(
    mut writer: OwnedWriteHalf,
    mut acks: mpsc::Receiver<Ack>,
    flows: &mut mpsc::Receiver<FlowBatch>,
) -> io::Result<()> {
    let mut life = tokio::time::interval(SIGN_OF_LIFE_EVERY);
    life.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(ack) = acks.recv() => send(&mut writer, Kind::Ack(ack)).await?,
            Some(batch) = flows.recv() => writer.write_all(&batch.into_frame()).await?,
            _ = life.tick() => send(&mut writer, Kind::Flows(Flows::default())).await?,
            else => return Ok(()),
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, kind: Kind) -> io::Result<()> {
    let message = ProxyMessage { kind: Some(kind) };
    let mut frame = Vec::with_capacity(message.encoded_len() + 4);
    frame.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    writer.write_all(&frame).await
}
