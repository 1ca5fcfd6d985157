//! HTTP policy through the real path: eBPF redirect, proxy, upstream with the client's address. Real curl and
//! nginx, both address families, HTTP/1.1 and HTTP/2.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::{Node, Pod, eventually, host};

/// A client, a stranger and a server with three HTTP rules; a Service in front of it.
const MANIFESTS: &str = conformance::manifests::HTTP;
const VIP_V4: &str = "10.96.1.1";
const VIP_V6: &str = "fd00:10:96::1:1";
const TOKEN: &str = "X-Token: s3cret";

fn url(host: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(host, port))
}

/// Every way to the server: its own address and its Service's, both families.
fn ways(server: &Pod) -> Vec<(IpAddr, u16)> {
    vec![
        (server.ipv4().into(), 8080),
        (server.ipv6().into(), 8080),
        (VIP_V4.parse().unwrap(), 80),
        (VIP_V6.parse().unwrap(), 80),
    ]
}

/// nginx in the server pod: answers every request with what it saw.
fn nginx(server: &Pod, folder: &std::path::Path) -> std::process::Child {
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; pid {0}/pid; error_log stderr crit; events {{}} http {{ access_log off; \
         server {{ listen 8080; listen [::]:8080; client_max_body_size 0; \
         location / {{ default_type text/plain; \
         return 200 \"$remote_addr $request_method $request_uri\\n\"; }} }} \
         server {{ listen 8081 http2; listen [::]:8081 http2; \
         location / {{ return 200 \"$remote_addr $request_method $request_uri\\n\"; }} }} }}",
        folder.display()
    );
    std::fs::write(&config, text).unwrap();
    let child = server.command("nginx").arg("-c").arg(&config).spawn().expect("nginx runs");
    eventually("nginx listens", Duration::from_secs(20), || {
        server.connect((server.ipv4(), 8080)).map(drop).map_err(|e| e.to_string())
    });
    child
}

fn stop(mut child: std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _ = child.wait();
}

#[test]
fn method_path_and_header_decide_over_both_families_and_protocols() {
    if !host::privileged("method_path_and_header_decide_over_both_families_and_protocols") {
        return;
    }
    let node = Node::builder("http").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let folder = tempfile::tempdir().unwrap();
    let nginx = nginx(&server, folder.path());
    let cases: &[(&[&str], &str, u16)] = &[
        (&[], "/public/a", 200),
        (&[], "/public/a?q=1", 200),
        (&["-XPOST"], "/public/a", 403),
        (&[], "/private", 403),
        (&[], "/public/../private", 403),
        (&[], "/public/%2e%2e/private", 403),
        (&["-XPUT", "-H", TOKEN], "/orders", 200),
        (&["-XPUT"], "/orders", 403),
        (&["-XPUT", "-H", "X-Token: other"], "/orders", 403),
    ];
    for (host, port) in ways(&server) {
        for (arguments, path, want) in cases {
            let mut all = vec!["--path-as-is"];
            all.extend(*arguments);
            let url = url(host, port, path);
            all.push(&url);
            let (status, body) = client.curl(&all);
            assert_eq!(status, *want, "{all:?}: {body}\n{}", node.log());
            if status == 403 {
                assert_eq!(body, "Access denied\r\n", "{all:?}");
            } else {
                let source: IpAddr = if host.is_ipv4() { client.ipv4().into() } else { client.ipv6().into() };
                assert!(body.starts_with(&format!("{source} ")), "the server sees the client: {body}");
            }
        }
    }
    for host in [IpAddr::from(server.ipv4()), server.ipv6().into()] {
        let (allowed, denied) = (url(host, 8081, "/public/a"), url(host, 8081, "/private"));
        let (status, body) = client.curl(&["--http2-prior-knowledge", &allowed]);
        assert_eq!(status, 200, "{body}\n{}", node.log());
        assert_eq!(client.curl(&["--http2-prior-knowledge", &denied]).0, 403);
    }
    stop(nginx);
}

#[test]
fn one_connection_carries_allowed_and_denied_requests() {
    if !host::privileged("one_connection_carries_allowed_and_denied_requests") {
        return;
    }
    let node = Node::builder("mixed").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let seen = record(server.listen((server.ipv4(), 8080)));
    let mut connection = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    for round in 0..20 {
        let allowed = connection.request("GET", &format!("/public/{round}"), &[]).unwrap();
        assert_eq!((allowed.status, allowed.text().as_str()), (200, "ok\n"));
        let denied = connection.request("DELETE", &format!("/public/{round}"), &[]).unwrap();
        assert_eq!((denied.status, denied.text().as_str()), (403, "Access denied\r\n"));
        assert_eq!(denied.header("content-length"), Some("15"));
    }
    let lines: Vec<String> = seen.try_iter().map(|request| request.line).collect();
    let want: Vec<String> = (0..20).map(|round| format!("GET /public/{round} HTTP/1.1")).collect();
    assert_eq!(lines, want, "only what policy allows reaches the server");
}

#[test]
fn a_stranger_is_dropped_with_a_reason() {
    if !host::privileged("a_stranger_is_dropped_with_a_reason") {
        return;
    }
    let node = Node::builder("l4").file("http.yaml", MANIFESTS).start();
    let (stranger, server) = (node.pod("test/stranger"), node.pod("test/server"));
    let seen = record(server.listen((server.ipv4(), 8080)));
    for target in [SocketAddr::from((server.ipv4(), 8080)), SocketAddr::from((server.ipv6(), 8080))] {
        let url = format!("http://{target}/public/a");
        assert_eq!(stranger.curl(&["-m", "2", &url]).0, 0, "no answer at all");
    }
    let flow = eventually("the drop is a flow", Duration::from_secs(10), || {
        let flows = node.json(&["flows", "--verdict", "dropped", "--from", "test/stranger"]);
        let list = flows["flows"].as_array().cloned().unwrap_or_default();
        list.into_iter().next().ok_or_else(|| format!("{flows}\n{}", node.log()))
    });
    assert_eq!(flow["reason"], "POLICY_DENIED", "{flow}");
    assert_eq!(flow["destination"]["name"], "server", "{flow}");
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn a_stricter_policy_bites_at_the_next_request() {
    if !host::privileged("a_stricter_policy_bites_at_the_next_request") {
        return;
    }
    let node = Node::builder("strict").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let _seen = record(server.listen((server.ipv4(), 8080)));
    let mut connection = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200);
    node.apply("http.yaml", &MANIFESTS.replace("/public/.*", "/other/.*"));
    eventually("the open connection is denied", Duration::from_secs(10), || {
        match connection.request("GET", "/public/a", &[]).unwrap().status {
            403 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    assert_eq!(connection.request("GET", "/other/a", &[]).unwrap().status, 200, "still the same connection");
}

#[test]
fn large_bodies_stream_both_ways() {
    const SIZE: usize = 100 << 20;
    /// How much the proxy may grow, in kilobytes.
    const GROWTH_MAX: u64 = 16 << 10;
    if !host::privileged("large_bodies_stream_both_ways") {
        return;
    }
    let node = Node::builder("large").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let listener = server.listen((server.ipv4(), 8080));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || mirror(stream));
        }
    });
    let proxy = node.proxy_pid();
    let url = format!("http://{}:8080/orders", server.ipv4());
    assert_eq!(client.curl(&["-H", TOKEN, "-XPUT", "-d", "warm", &url]).0, 200);
    let before = rss(proxy);
    let folder = tempfile::tempdir().unwrap();
    let (sent, got) = (folder.path().join("sent"), folder.path().join("got"));
    std::fs::write(&sent, vec![b'x'; SIZE]).unwrap();
    let (upload, output) = (format!("@{}", sent.display()), got.display().to_string());
    let (status, _) =
        client.curl(&["-m", "120", "-H", TOKEN, "-XPUT", "--data-binary", &upload, "-o", &output, &url]);
    assert_eq!(status, 200);
    assert_eq!(std::fs::metadata(&got).unwrap().len(), SIZE as u64);
    let growth = rss(proxy).saturating_sub(before);
    assert!(growth < GROWTH_MAX, "the proxy grew by {growth} kB");
}

/// Answers one request with its own body, as it comes.
fn mirror(mut stream: std::net::TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.contains("expect: 100-continue") {
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let Some(mut left) = length.and_then(|length| length.trim().parse::<usize>().ok()) else { return };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes());
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let Ok(read @ 1..) = stream.read(&mut buffer) else { return };
        left -= read;
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

/// Resident memory of a process in kilobytes.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_websocket_passes_through_an_allowed_rule() {
    if !host::privileged("a_websocket_passes_through_an_allowed_rule") {
        return;
    }
    let node = Node::builder("ws").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let listener = server.listen((server.ipv4(), 8080));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
            head.push(byte[0]);
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    });
    let upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let mut denied = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    assert_eq!(denied.request("GET", "/private", &upgrade).unwrap().status, 403);
    let mut connection = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    assert_eq!(connection.request("GET", "/public/ws", &upgrade).unwrap().status, 101);
    let frame = b"\x81\x85\x01\x02\x03\x04ifnok";
    connection.send(frame).unwrap();
    let mut echo = [0; 11];
    connection.stream().read_exact(&mut echo).unwrap();
    assert_eq!(&echo, frame);
}
