//! Opening one upstream connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{Face, Ports};

/// Why a backend is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer in {0:?}")]
    TimedOut(Duration),
    #[error("all of {0} source ports tried are in use")]
    NoPort(usize),
}

/// Connects to `target` with the given face: up to `attempts` source ports are tried, each free of any
/// connection between the same two addresses.
pub async fn connect(
    face: Face,
    target: SocketAddr,
    ports: &Ports,
    attempts: usize,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let connecting = async {
        for _ in 0..attempts {
            match attempt(face, target, ports).await {
                Ok(stream) => return Ok(stream),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ConnectError::NoPort(attempts))
    };
    match tokio::time::timeout(limit, connecting).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(ConnectError::TimedOut(limit)),
    }
}

/// The port is some other connection's: bind says the one, connect the other.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

async fn attempt(face: Face, target: SocketAddr, ports: &Ports) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Face::LocalClient(client) | Face::RemoteClient(client) = face {
        as_client(&socket, client, ports.next(face))?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(target).await
}

fn as_client(socket: &Socket, client: IpAddr, port: u16) -> io::Result<()> {
    // The option of SOL_IP is the one that both families look at.
    socket.set_ip_transparent_v4(true)?;
    // Lets the bind take over a port whose last connection is in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_mark(abi::mark::UPSTREAM)?;
    socket.bind(&SocketAddr::new(client, port).into())
}
