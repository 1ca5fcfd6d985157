//! The sockets: UDP and TCP, both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info};

use super::answer::{Step, Transport, answer};
use super::forward::Forwarder;
use super::zone::Zone;

/// TCP connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// A TCP connection that says nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest UDP query read, bytes.
const UDP_QUERY_MAX: usize = 4096;

/// The DNS server.
#[derive(Debug)]
pub(super) struct Server {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    forwarder: Forwarder,
    connections: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(zone: watch::Receiver<Option<Arc<Zone>>>, forwarder: Forwarder) -> Self {
        Server { zone, forwarder, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Serves on every address; returns when a socket fails for good.
    pub(super) async fn serve(self: Arc<Self>, port: u16) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let mut last_error = None;
        let wildcards = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)];
        for address in wildcards.map(|ip| SocketAddr::new(ip, port)) {
            let sockets = async {
                Ok::<_, io::Error>((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
            };
            match sockets.await {
                Ok((udp, tcp)) => {
                    info!(%address, "serving");
                    tasks.spawn(Arc::clone(&self).udp(udp));
                    tasks.spawn(Arc::clone(&self).tcp(tcp));
                }
                // The IPv6 sockets take IPv4 too, unless net.ipv6.bindv6only says otherwise.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && !tasks.is_empty() => {}
                Err(e) => last_error = Some(e),
            }
        }
        match (tasks.join_next().await, last_error) {
            (Some(ended), _) => ended.unwrap_or_else(|e| Err(io::Error::other(e))),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }

    async fn udp(self: Arc<Self>, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut buffer = [0; UDP_QUERY_MAX];
        loop {
            let (n, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error for an earlier answer.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(e) => return Err(e),
            };
            match self.step(&buffer[..n], Transport::Udp) {
                Step::Ignore => {}
                Step::Answer(bytes) => {
                    socket.send_to(&bytes, peer).await.ok();
                }
                // Bounded by the forwarder: beyond its limit these end at once.
                step => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        if let Some(bytes) = server.finish(step, Transport::Udp).await {
                            socket.send_to(&bytes, peer).await.ok();
                        }
                    });
                }
            }
        }
    }

    async fn tcp(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = server.connection(stream).await {
                            debug!(%peer, %error, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One query after the other, each with its length in front (RFC 7766).
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.map(|_| query)
            };
            let query = match timeout(IDLE_MAX, read).await {
                Ok(Ok(query)) => query,
                Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_) => return Ok(()),
            };
            let step = self.step(&query, Transport::Tcp);
            let Some(bytes) = self.finish(step, Transport::Tcp).await else { return Ok(()) };
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let write = stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await;
            write?;
        }
    }

    fn step(&self, query: &[u8], transport: Transport) -> Step {
        match &*self.zone.borrow() {
            Some(zone) => answer(zone, query, transport, !self.forwarder.is_empty()),
            None => Step::Ignore,
        }
    }

    /// Completes a step by asking upstream where it says so.
    async fn finish(&self, step: Step, transport: Transport) -> Option<Vec<u8>> {
        let (pending, question) = match step {
            Step::Ignore => return None,
            Step::Answer(bytes) => return Some(bytes),
            Step::Forward(pending) => {
                let question = pending.query.clone();
                (pending, question)
            }
            Step::Chase(pending, target) => {
                let question = Query::query(target, pending.query.query_type());
                (pending, question)
            }
        };
        match self.forwarder.ask(&question, transport).await {
            Some(answer) => pending.complete(answer),
            None => pending.fail(ResponseCode::ServFail),
        }
    }
}
