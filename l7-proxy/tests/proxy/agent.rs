//! The agent's end of the configuration stream.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use l7_proxy::wire::{Ack, ConfigUpdate, Flow, ProxyMessage, proxy_message::Kind};
use prost::Message;

use crate::harness::{SOON, until};

/// Sends the first configuration to whoever connects, and keeps what it hears.
pub(crate) struct FakeAgent {
    path: PathBuf,
    stream: Arc<Mutex<Option<UnixStream>>>,
    acks: Receiver<Ack>,
    flows: Arc<Mutex<Vec<Flow>>>,
    /// Messages without access records: signs of life.
    signs: Arc<AtomicUsize>,
}

impl FakeAgent {
    pub(crate) fn start(path: &Path, first: ConfigUpdate) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let stream = Arc::new(Mutex::new(None));
        let flows = Arc::new(Mutex::new(Vec::new()));
        let (sender, acks) = channel();
        let (current, heard) = (Arc::clone(&stream), Arc::clone(&flows));
        let signs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&signs);
        std::thread::spawn(move || {
            // Ends when the test removes the socket and the proxy goes.
            while let Ok((connection, _)) = listener.accept() {
                let reader = connection.try_clone().expect("a second handle");
                *current.lock().expect("lock") = Some(connection);
                write_frame(&current, &first);
                let _ = listen(reader, &sender, &heard, &counted);
            }
        });
        Self { path: path.to_owned(), stream, acks, flows, signs }
    }

    /// Sends one more update.
    pub(crate) fn send(&self, update: &ConfigUpdate) {
        write_frame(&self.stream, update);
    }

    /// Sends an update and waits for its answer.
    pub(crate) fn apply(&self, update: &ConfigUpdate) -> Ack {
        self.send(update);
        self.wait_for_ack()
    }

    pub(crate) fn wait_for_ack(&self) -> Ack {
        self.acks.recv_timeout(SOON).expect("an acknowledgement")
    }

    /// Waits for so many signs of life.
    pub(crate) fn wait_for_signs_of_life(&self, count: usize) {
        until("signs of life", || self.signs.load(Ordering::Relaxed) >= count);
    }

    /// Disappears, as a killed agent does.
    pub(crate) fn stop(&self) {
        std::fs::remove_file(&self.path).expect("our socket");
        *self.stream.lock().expect("lock") = None;
    }

    #[track_caller]
    pub(crate) fn flow(&self, wanted: impl Fn(&Flow) -> bool) -> Flow {
        let started = Instant::now();
        loop {
            let flows = self.flows.lock().expect("lock");
            if let Some(flow) = flows.iter().find(|flow| wanted(flow)) {
                return flow.clone();
            }
            assert!(started.elapsed() < SOON, "no such record among {:#?}", *flows);
            drop(flows);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub(crate) fn count_flows(&self, wanted: impl Fn(&Flow) -> bool) -> usize {
        self.flows.lock().expect("lock").iter().filter(|flow| wanted(flow)).count()
    }

    #[track_caller]
    pub(crate) fn wait_for_flows(&self, count: usize, wanted: impl Fn(&Flow) -> bool) {
        until("access records", || self.count_flows(&wanted) >= count);
        assert_eq!(self.count_flows(&wanted), count);
    }
}

fn write_frame(stream: &Mutex<Option<UnixStream>>, update: &ConfigUpdate) {
    let message = update.encode_to_vec();
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&message);
    let mut stream = stream.lock().expect("lock");
    stream.as_mut().expect("a proxy").write_all(&frame).expect("it listens");
}

fn listen(
    mut reader: UnixStream,
    acks: &Sender<Ack>,
    flows: &Mutex<Vec<Flow>>,
    signs: &AtomicUsize,
) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        reader.read_exact(&mut message)?;
        match ProxyMessage::decode(message.as_slice()).expect("a message").kind.expect("a kind") {
            Kind::Hello(hello) => assert_eq!(hello.protocol_version, l7_proxy::wire::PROTOCOL_VERSION),
            Kind::Ack(ack) => acks.send(ack).map_err(io::Error::other)?,
            Kind::Flows(more) => {
                assert_eq!(more.lost, 0);
                signs.fetch_add(usize::from(more.flows.is_empty()), Ordering::Relaxed);
                flows.lock().expect("lock").extend(more.flows);
            }
        }
    }
}
