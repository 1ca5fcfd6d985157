//! Asks upstream servers: with an id of our own, from a port of its own, believing only what fits the
//! question.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Transport, UDP_MAX};

/// Longest wait for one server before the next is asked.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at a time; more fail at once.
const IN_FLIGHT_MAX: usize = 512;

/// The upstream servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    in_flight: Semaphore,
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Forwarder { servers, in_flight: Semaphore::new(IN_FLIGHT_MAX) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The first server's answer to come; `None` if none answers.
    pub(super) async fn ask(&self, question: &Query, transport: Transport) -> Option<Message> {
        let _permit = self.in_flight.try_acquire().ok()?;
        let mut query = Message::new(random(), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        query.set_edns(edns);
        let bytes = query.to_vec().ok()?;
        for server in &self.servers {
            let asked = timeout(SERVER_TIMEOUT, exchange(*server, transport, &bytes, &query)).await;
            if let Ok(Ok(answer)) = asked {
                return Some(answer);
            }
        }
        None
    }
}

async fn exchange(
    server: SocketAddr,
    transport: Transport,
    bytes: &[u8],
    query: &Message,
) -> io::Result<Message> {
    match transport {
        Transport::Udp => {
            let any: SocketAddr = match server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(server).await?;
            socket.send(bytes).await?;
            let mut buffer = [0; UDP_MAX as usize];
            // Whatever does not fit is somebody else's: go on waiting.
            loop {
                let n = socket.recv(&mut buffer).await?;
                if let Some(answer) = fitting(&buffer[..n], query) {
                    return Ok(answer);
                }
            }
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
            let length = stream.read_u16().await?;
            let mut buffer = vec![0; usize::from(length)];
            stream.read_exact(&mut buffer).await?;
            fitting(&buffer, query).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

fn fitting(bytes: &[u8], query: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == query.queries;
    fits.then_some(answer)
}

/// Sixteen bits that nobody outside can foretell.
fn random() -> u16 {
    (RandomState::new().build_hasher().finish() >> 24) as u16
}
