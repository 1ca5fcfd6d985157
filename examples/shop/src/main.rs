//! The shop's three services in one tiny program: `shop web|orders|payments`. Each answers every request with a
//! line of JSON that says who it is and what it saw, so that a reader of the demo can see what reached it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Where every service listens, in its own pod.
const PORT: u16 = 8080;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("usage: shop web|orders|payments")?;
    ensure!(
        ["web", "orders", "payments"].contains(&name.as_str()),
        "no service {name}: web, orders or payments"
    );
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await.context("listen on port 8080")?;
    println!("{name} listens on port {PORT}");
    loop {
        let (stream, client) = listener.accept().await?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(name.clone(), client, request));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("{client}: {error}");
            }
        });
    }
}

async fn answer(
    name: String,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let client = client.ip().to_canonical();
    println!("{name}: {} {} from {client}", request.method(), request.uri());
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let line = serde_json::json!({
        "service": name,
        "client": client,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
    });
    let line = format!("{line}\n");
    let mut response = Response::new(Full::new(Bytes::from(line)));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}
