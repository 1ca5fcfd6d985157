use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use policy::snapshot::{Backend, Service, ServicePort, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

use super::answer::{Step, Transport, answer};
use super::forward::Forwarder;
use super::server::Server;
use super::state::{DnsEndpoint, DnsPort, DnsService, DnsState};
use super::zone::Zone;

fn service(name: &str, cluster_ips: &[&str]) -> DnsService {
    DnsService {
        namespace: "shop".into(),
        name: name.into(),
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![DnsPort { name: "http".into(), port: 80, proto: 6 }],
        ..Default::default()
    }
}

fn alias(name: &str, target: &str) -> DnsService {
    DnsService { external_name: Some(target.into()), ports: vec![], ..service(name, &[]) }
}

fn zone() -> Zone {
    let endpoint = |ip: &str, hostname: Option<&str>| DnsEndpoint {
        address: ip.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
    };
    let db = DnsService {
        endpoints: vec![
            endpoint("10.244.0.5", Some("db-0")),
            endpoint("10.244.0.6", None),
            endpoint("fd00:10:244::5", Some("db-0")),
        ],
        ..service("db", &[])
    };
    let many = DnsService {
        endpoints: (1..100).map(|n| endpoint(&format!("10.244.1.{n}"), None)).collect(),
        ..service("many", &[])
    };
    let state = DnsState {
        services: vec![
            service("web", &["10.96.0.20", "fd00:10:96::20"]),
            service("four", &["10.96.0.21"]),
            db,
            many,
            service("nobody", &[]),
            alias("out", "www.example.com."),
            alias("in", "web.shop.svc.cluster.local"),
            alias("loop", "loop.shop.svc.cluster.local"),
        ],
    };
    Zone::new(&"Cluster.Local.".parse().unwrap(), &state, 7)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x2a00, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message, transport: Transport) -> Message {
    match answer(&zone(), &message.to_vec().unwrap(), transport, false) {
        Step::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        step => panic!("{step:?}"),
    }
}

/// The answer section as text, sorted.
fn answers(message: &Message) -> Vec<String> {
    let mut all: Vec<String> =
        message.answers.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
    all.sort();
    all
}

#[test]
fn names_and_types() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, PTR, SOA, SRV};
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    let none: &[&str] = &[];
    let reverse = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa.";
    let table: &[(&str, RecordType, ResponseCode, &[&str])] = &[
        ("web.shop.svc.cluster.local.", A, NoError, &["A 10.96.0.20"]),
        ("web.shop.svc.cluster.local.", AAAA, NoError, &["AAAA fd00:10:96::20"]),
        ("web.shop.svc.cluster.local.", ANY, NoError, &["A 10.96.0.20", "AAAA fd00:10:96::20"]),
        ("web.shop.svc.cluster.local.", MX, NoError, none),
        ("four.shop.svc.cluster.local.", AAAA, NoError, none),
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            SRV,
            NoError,
            &["SRV 0 100 80 web.shop.svc.cluster.local."],
        ),
        ("_tcp.web.shop.svc.cluster.local.", SRV, NoError, none),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, NXDomain, none),
        ("db.shop.svc.cluster.local.", A, NoError, &["A 10.244.0.5", "A 10.244.0.6"]),
        ("db.shop.svc.cluster.local.", AAAA, NoError, &["AAAA fd00:10:244::5"]),
        ("db-0.db.shop.svc.cluster.local.", A, NoError, &["A 10.244.0.5"]),
        ("10-244-0-6.db.shop.svc.cluster.local.", A, NoError, &["A 10.244.0.6"]),
        (
            "_http._tcp.db.shop.svc.cluster.local.",
            SRV,
            NoError,
            &[
                "SRV 0 100 80 10-244-0-6.db.shop.svc.cluster.local.",
                "SRV 0 100 80 db-0.db.shop.svc.cluster.local.",
            ],
        ),
        // Endpoints of a service with a cluster address have no names.
        ("db-0.web.shop.svc.cluster.local.", A, NXDomain, none),
        ("nobody.shop.svc.cluster.local.", A, NXDomain, none),
        ("none.shop.svc.cluster.local.", A, NXDomain, none),
        ("web.other.svc.cluster.local.", A, NXDomain, none),
        ("shop.svc.cluster.local.", A, NoError, none),
        ("svc.cluster.local.", A, NoError, none),
        ("cluster.local.", A, NoError, none),
        ("xcluster.local.", A, Refused, none),
        ("local.", A, Refused, none),
        (".", A, Refused, none),
        ("www.example.com.", A, Refused, none),
        ("out.shop.svc.cluster.local.", A, NoError, &["CNAME www.example.com."]),
        ("out.shop.svc.cluster.local.", CNAME, NoError, &["CNAME www.example.com."]),
        ("in.shop.svc.cluster.local.", A, NoError, &["A 10.96.0.20", "CNAME web.shop.svc.cluster.local."]),
        ("loop.shop.svc.cluster.local.", A, ServFail, none),
        ("20.0.96.10.in-addr.arpa.", PTR, NoError, &["PTR web.shop.svc.cluster.local."]),
        ("5.0.244.10.in-addr.arpa.", PTR, NoError, &["PTR db-0.db.shop.svc.cluster.local."]),
        (reverse, PTR, NoError, &["PTR db-0.db.shop.svc.cluster.local."]),
        ("1.0.0.127.in-addr.arpa.", PTR, Refused, none),
        (
            "cluster.local.",
            SOA,
            NoError,
            &["SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"],
        ),
    ];
    for (name, kind, code, want) in table {
        let message = ask(&query(name, *kind), Transport::Udp);
        assert_eq!(message.metadata.response_code, *code, "{name} {kind}");
        assert_eq!(answers(&message), *want, "{name} {kind}");
        let ours = !matches!(*code, Refused | ServFail);
        assert_eq!(message.metadata.authoritative, ours, "{name} {kind}");
        assert!(message.answers.iter().all(|record| record.ttl == 5));
        // Negative answers say how long they hold (RFC 2308).
        let negative = ours && want.is_empty();
        let soa = message.authorities.iter().filter(|r| r.record_type() == SOA).count();
        assert_eq!(soa, usize::from(negative), "{name} {kind}");
    }
}

#[test]
fn the_question_comes_back_as_it_was_spelled() {
    let name = "wEb.ShoP.sVc.CLUSTER.local.";
    let message = ask(&query(name, RecordType::A), Transport::Udp);
    assert_eq!(message.metadata.id, 0x2a00);
    assert!(message.metadata.recursion_desired && !message.metadata.recursion_available);
    assert_eq!(message.queries[0].name().to_ascii(), name);
    assert_eq!(message.answers[0].name.to_ascii(), name);
}

#[test]
fn long_answers_are_cut_for_udp_alone() {
    let mut long = query("many.shop.svc.cluster.local.", RecordType::A);
    let cut = ask(&long, Transport::Udp);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(cut.queries, long.queries);
    let whole = ask(&long, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 99);
    // A client that says it takes more gets no fragments all the same.
    let mut edns = Edns::new();
    edns.set_max_payload(65_000);
    long.set_edns(edns);
    let cut = ask(&long, Transport::Udp);
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 1232);
    assert_eq!(cut.edns.unwrap().max_payload(), 1232);
}

#[test]
fn addresses_take_turns() {
    let first = |id: u16| {
        let mut message = query("db.shop.svc.cluster.local.", RecordType::A);
        message.metadata.id = id;
        ask(&message, Transport::Udp).answers[0].data.clone()
    };
    assert_ne!(first(0), first(1));
}

#[test]
fn odd_queries() {
    let good = || query("web.shop.svc.cluster.local.", RecordType::A);
    let with = |change: fn(&mut Message)| {
        let mut message = good();
        change(&mut message);
        ask(&message, Transport::Udp).metadata.response_code
    };
    assert_eq!(with(|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp);
    assert_eq!(with(|m| m.queries.clear()), ResponseCode::FormErr);
    assert_eq!(with(|m| m.queries.push(m.queries[0].clone())), ResponseCode::FormErr);
    assert_eq!(
        with(|m| m.queries[0] = m.queries[0].clone().set_query_class(DNSClass::CH).clone()),
        ResponseCode::Refused
    );
    let mut future = good();
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    let refused = ask(&future, Transport::Udp);
    assert_eq!(refused.edns.map(|edns| edns.rcode_high()), Some(1), "BADVERS is 16");

    // An answer is never answered, or two servers would talk for ever.
    let mut response = good();
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(answer(&zone(), &response.to_vec().unwrap(), Transport::Udp, false), Step::Ignore));
}

#[test]
fn every_cut_of_a_query_is_survived() {
    let mut message = query("web.shop.svc.cluster.local.", RecordType::A);
    message.set_edns(Edns::new());
    let bytes = message.to_vec().unwrap();
    for end in 0..bytes.len() {
        match answer(&zone(), &bytes[..end], Transport::Udp, false) {
            Step::Ignore => assert!(end < 12, "{end}"),
            Step::Answer(answer) => {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.metadata.id, 0x2a00);
                assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{end}");
            }
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn the_state_is_the_snapshots() {
    let backend = |ip: &str, ready: bool| Backend {
        address: ip.parse().unwrap(),
        port: 5432,
        ready,
        endpoint: None,
        hostname: (ip == "10.0.0.1").then(|| "db-0".to_owned()),
    };
    let port = |name: &str| ServicePort {
        name: name.to_owned(),
        port: 80,
        proto: 6,
        app_protocol: None,
        backends: vec![backend("10.0.0.1", true), backend("10.0.0.2", false)],
    };
    let headless = Service {
        namespace: "shop".into(),
        name: "db".into(),
        ports: vec![port("sql"), port("")],
        ..Default::default()
    };
    let vip =
        Service { name: "web".into(), cluster_ips: vec!["10.96.0.1".parse().unwrap()], ..headless.clone() };
    let mut snapshot = Snapshot::default();
    snapshot.services.insert("shop/db".into(), Arc::new(headless));
    snapshot.services.insert("shop/web".into(), Arc::new(vip));
    let state = DnsState::from_snapshot(&snapshot);
    let [db, web] = state.services.as_slice() else { panic!("{state:?}") };
    let db_0 = DnsEndpoint { address: "10.0.0.1".parse().unwrap(), hostname: Some("db-0".into()) };
    assert_eq!(db.endpoints, [db_0], "just those that are ready");
    assert_eq!(db.ports, [DnsPort { name: "sql".into(), port: 5432, proto: 6 }], "the target port");
    assert_eq!(web.ports, [DnsPort { name: "sql".into(), port: 80, proto: 6 }], "the service port");
    assert!(web.endpoints.is_empty());
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<DnsState>(&json).unwrap(), state);
}

/// Starts a server on a free port of this machine.
async fn serve(zone: Zone, upstream: Vec<SocketAddr>) -> SocketAddr {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let (sender, receiver) = watch::channel(Some(Arc::new(zone)));
    let server = Arc::new(Server::new(receiver, Forwarder::new(upstream)));
    tokio::spawn(async move {
        let _zone = sender;
        server.serve(free.port()).await.unwrap();
    });
    // Until it listens.
    while TcpStream::connect(free).await.is_err() {
        tokio::task::yield_now().await;
    }
    free
}

async fn over_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let n = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..n]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

#[tokio::test]
async fn servers_ask_upstream_for_what_is_not_theirs() {
    let example = DnsState {
        services: vec![DnsService {
            name: "www".into(),
            namespace: "x".into(),
            ..service("", &["192.0.2.80", "2001:db8::80"])
        }],
    };
    let upstream = serve(Zone::new(&"example.com".parse().unwrap(), &example, 1), vec![]).await;
    // The first upstream is a port where nobody answers.
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let state =
        DnsState { services: vec![alias("out", "www.x.svc.example.com"), service("web", &["10.96.0.20"])] };
    let ours = Zone::new(&"cluster.local".parse().unwrap(), &state, 1);
    let server = serve(ours, vec![nobody, upstream]).await;

    let mut theirs = query("wWw.x.svc.example.com.", RecordType::A);
    theirs.set_edns(Edns::new());
    let answer = over_udp(server, &theirs).await;
    assert_eq!(answers(&answer), ["A 192.0.2.80"]);
    assert_eq!((answer.metadata.id, answer.metadata.recursion_available), (0x2a00, true));
    assert_eq!(answer.queries, theirs.queries);
    assert!(!answer.metadata.authoritative);

    let missing = over_udp(server, &query("no.example.com.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);

    let chased = over_udp(server, &query("out.shop.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!(answers(&chased), ["AAAA 2001:db8::80", "CNAME www.x.svc.example.com."]);

    // Several questions over one connection, ours and theirs.
    let mut stream = TcpStream::connect(server).await.unwrap();
    for _ in 0..2 {
        let answer = over_tcp(&mut stream, &query("web.shop.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answers(&answer), ["A 10.96.0.20"]);
        assert_eq!(answers(&over_tcp(&mut stream, &theirs).await), ["A 192.0.2.80"]);
    }

    let alone = Zone::new(&"cluster.local".parse().unwrap(), &state, 1);
    let deaf = serve(alone, vec![nobody]).await;
    let failed = over_udp(deaf, &theirs).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(matches!(
        over_udp(deaf, &query("web.shop.svc.cluster.local.", RecordType::A)).await.answers[0].data,
        RData::A(_)
    ));
}
