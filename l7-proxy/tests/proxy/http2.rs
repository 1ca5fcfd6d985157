//! HTTP/2 with prior knowledge on both sides, and gRPC.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};

use crate::harness::{Proxy, SOON, public_only};
use crate::upstream::Upstream;

/// An HTTP/2 server that echoes bodies and puts what it saw into headers.
pub(crate) fn echo() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("non-blocking");
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(answer(request, respond));
                    }
                });
            }
        });
    });
    address
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let response = Response::builder()
        .header("x-uri", head.uri.to_string())
        .header("x-te", head.headers.get("te").cloned().unwrap_or(http::HeaderValue::from_static("")))
        .body(())
        .expect("a response");
    let mut stream = respond.send_response(response, false).expect("sent");
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        stream.send_data(chunk, false).expect("sent");
    }
    let mut trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    stream.send_trailers(trailers).expect("sent");
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) async fn client(proxy: &Proxy) -> SendRequest<Bytes> {
    let stream = proxy.connect().stream;
    stream.set_nonblocking(true).expect("non-blocking");
    let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
    let (client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    client.ready().await.expect("ready")
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

pub(crate) async fn send(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Vec<u8>>,
) -> Result<Answer, h2::Error> {
    let (response, mut stream) = client.send_request(request, body.is_none())?;
    if let Some(body) = body {
        stream.send_data(body.into(), false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "9".parse().expect("a value"));
        trailers.insert("content-length", "1".parse().expect("a value"));
        stream.send_trailers(trailers)?;
    }
    let (head, mut body) = tokio::time::timeout(SOON, response).await.expect("in time")?.into_parts();
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        all.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: all, trailers })
}

pub(crate) fn post(uri: &str) -> http::request::Builder {
    Request::post(uri).header("content-type", "application/grpc+proto").header("te", "trailers")
}

#[test]
fn requests_and_trailers_pass() {
    let proxy = Proxy::start(public_only(), echo());
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        for n in 0..3 {
            let request = post("http://WEB/x/../public/a").body(()).expect("a request");
            let answer = send(&mut client, request, Some(vec![7; 100_000])).await.expect("an answer");
            assert_eq!((answer.status, answer.body.len()), (200, 100_000), "{n}");
            assert_eq!(answer.headers["x-uri"], "http://web/public/a");
            assert_eq!(answer.headers["x-te"], "trailers");
            assert_eq!(
                (&answer.trailers["x-sum"], &answer.trailers["grpc-status"]),
                (&"9".parse().expect("v"), &"0".parse().expect("v"))
            );
            assert!(!answer.trailers.contains_key("content-length"));
        }
    });
    let flow = proxy.flow(|flow| flow.forwarded);
    assert_eq!(
        (flow.protocol.as_str(), flow.path.as_str(), flow.host.as_str()),
        ("gRPC", "/public/a", "web")
    );
    assert!(proxy.metrics().contains("upstream_connects_total{outcome=\"ok\"} 1"));
}

#[test]
fn denials_speak_the_clients_language() {
    let proxy = Proxy::start(public_only(), echo());
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let answer =
            send(&mut client, post("http://a/admin").body(()).expect("r"), None).await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(
            (&answer.headers["grpc-status"], &answer.headers["grpc-message"]),
            (&"7".parse().expect("v"), &"Access denied".parse().expect("v"))
        );
        assert_eq!(answer.headers["content-type"], "application/grpc");

        for kind in ["application/grpc-web", "application/grpcx", "text/plain"] {
            let request = Request::post("http://a/admin").header("content-type", kind).body(()).expect("r");
            let answer = send(&mut client, request, None).await.expect("an answer");
            assert_eq!((answer.status, answer.body.as_slice()), (403, &b"Access denied\r\n"[..]), "{kind}");
        }
        // The connection goes on.
        let request = Request::get("http://a/public/x").body(()).expect("r");
        assert_eq!(send(&mut client, request, None).await.expect("an answer").status, 200);
    });
    let flow = proxy.flow(|flow| flow.protocol == "gRPC");
    assert_eq!(flow.status, 403);
}

#[test]
fn refused_heads() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        for request in [
            Request::get("http://a/public/x").header("host", "b"),
            Request::get("http://a/public/a%2fb"),
            Request::get("http://a/public/..;/x"),
            Request::get("http://u@a/public/x"),
            Request::get("http://a/public/x").header("expect", "x"),
        ] {
            let request = request.body(()).expect("a request");
            let shown = format!("{request:?}");
            let answer = send(&mut client, request, None).await.expect("an answer");
            assert!(matches!(answer.status, 400 | 417), "{shown}");
        }
        for (name, value) in
            [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "x"), ("te", "gzip")]
        {
            let request = Request::get("http://a/public/x").header(name, value).body(()).expect("a request");
            assert!(send(&mut client, request, None).await.is_err(), "{name}");
        }
    });
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn rapid_resets_end_the_connection() {
    let proxy = Proxy::start(public_only(), echo());
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let attack = async {
            for _ in 0..100_000 {
                let request = Request::get("http://a/public/x").body(()).expect("a request");
                let Ok((_, mut stream)) = client.send_request(request, false) else { return true };
                stream.send_reset(h2::Reason::CANCEL);
                drop(stream);
                tokio::task::yield_now().await;
                match client.clone().ready().await {
                    Ok(ready) => client = ready,
                    Err(_) => return true,
                }
            }
            false
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(30), attack).await.expect("in time"),
            "it was let on"
        );
    });
    // Others are served.
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let request = Request::get("http://a/public/x").body(()).expect("a request");
        assert_eq!(send(&mut client, request, None).await.expect("an answer").status, 200);
    });
}

#[test]
fn the_end_says_goaway() {
    let mut proxy = Proxy::start(public_only(), echo());
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let request = Request::get("http://a/public/x").body(()).expect("a request");
        assert_eq!(send(&mut client, request, None).await.expect("an answer").status, 200);
        proxy.begin_stop();
        let gone = async {
            loop {
                match client.clone().ready().await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(_) => return,
                }
            }
        };
        tokio::time::timeout(SOON, gone).await.expect("GOAWAY");
    });
    proxy.join();
}
