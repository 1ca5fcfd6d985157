use l7_proxy::wire::Hello;

use super::super::testing::Proxy;
use super::*;

struct Fixture {
    hub: ProxyHub,
    flows: mpsc::Receiver<wire::Flows>,
    lost: Counter,
    socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

fn hub(uid: u32) -> Fixture {
    let (sender, flows) = mpsc::channel(1);
    let lost = Counter::default();
    let hub = ProxyHub::new(sender, lost.clone());
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("proxy.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(hub.clone().serve(listener, uid));
    Fixture { hub, flows, lost, socket, _dir: dir }
}

impl Fixture {
    async fn connect(&self) -> Proxy {
        Proxy(UnixStream::connect(&self.socket).await.expect("the agent listens"))
    }
}

fn state(revision: u32) -> Arc<ProxyState> {
    let mut state = ProxyState::default();
    state.revision = revision;
    Arc::new(state)
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn a_proxy_that_comes_back_is_told_everything() {
    let fixture = hub(own_uid());
    fixture.hub.publish(state(5));
    for _ in 0..2 {
        let mut proxy = fixture.connect().await;
        proxy.hello().await.expect("sent");
        let update = proxy.update().await.expect("an update");
        assert_eq!((update.full, update.revision), (true, 5));
        proxy.ack(5, "").await.expect("sent");
        assert_eq!(fixture.hub.acknowledged(5, Duration::from_secs(5)).await, Acknowledged::ByAll);
        assert_eq!(fixture.hub.status()[0].pid, 77);
        drop(proxy);
        let mut progress = fixture.hub.progress.subscribe();
        while !fixture.hub.status().is_empty() {
            progress.changed().await.expect("the hub lives");
        }
    }
    assert_eq!(fixture.hub.acknowledged(6, Duration::from_secs(5)).await, Acknowledged::NobodyAsked);
}

#[tokio::test]
async fn strangers_and_other_versions_are_refused() {
    let fixture = hub(own_uid());
    fixture.hub.publish(state(1));
    let mut old = fixture.connect().await;
    old.say(Kind::Hello(Hello { protocol_version: 99, ..Hello::default() })).await.expect("sent");
    old.update().await.expect_err("it is shown the door");
    let mut rude = fixture.connect().await;
    rude.ack(1, "").await.expect("sent");
    rude.update().await.expect_err("its first message is no hello");
    let mut greedy = fixture.connect().await;
    greedy.0.write_u32(u32::MAX).await.expect("sent");
    greedy.update().await.expect_err("no such frame is taken");
    assert!(fixture.hub.status().is_empty());
}

#[tokio::test]
async fn records_that_do_not_fit_are_counted() {
    let mut fixture = hub(own_uid());
    let mut proxy = fixture.connect().await;
    proxy.hello().await.expect("sent");
    let batch = |records| {
        let flows = vec![wire::Flow::default(); records];
        Kind::Flows(wire::Flows { flows, lost: 1 })
    };
    for records in [1, 2, 3] {
        proxy.say(batch(records)).await.expect("sent");
    }
    fixture.hub.publish(state(1));
    proxy.update().await.expect("an update");
    proxy.ack(1, "").await.expect("sent");
    assert_eq!(fixture.hub.acknowledged(1, Duration::from_secs(5)).await, Acknowledged::ByAll);
    assert_eq!(fixture.flows.recv().await.expect("the first batch").flows.len(), 1);
    assert_eq!(fixture.lost.get(), 7);
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_told_of() {
    let fixture = hub(own_uid());
    let mut proxy = fixture.connect().await;
    proxy.hello().await.expect("sent");
    fixture.hub.connected(Duration::from_secs(5)).await;
    let first = fixture.hub.status().remove(0);
    let late = Instant::now() + SILENCE_MAX + Duration::from_millis(1);
    assert_eq!(first.silent_for(Instant::now()), None);
    assert!(first.silent_for(late).is_some_and(|silence| silence > SILENCE_MAX), "{first:?}");
    // A message without records is a sign of life, and no flow.
    proxy.say(Kind::Flows(wire::Flows::default())).await.expect("sent");
    let end = Instant::now() + Duration::from_secs(5);
    while fixture.hub.status()[0].heard == first.heard {
        assert!(Instant::now() < end, "it was not heard");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
