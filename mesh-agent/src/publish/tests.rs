use std::net::Ipv4Addr;
use std::time::Instant;

use abi::Config;
use policy::snapshot::Endpoint;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::testing::{Log, Proxy, Recorder};
use super::*;

/// Index of the veth by endpoint id.
struct NoVeths(BTreeMap<u32, u32>);

impl Veths for NoVeths {
    fn veths(&self) -> BTreeMap<u32, Link> {
        self.0.iter().map(|(id, ifindex)| (*id, Link { ifindex: *ifindex, ..Link::default() })).collect()
    }
}

/// Endpoints 1 to `pods`; what the compiler makes of a snapshot is a policy for each.
fn source(revision: u32, pods: u32) -> Arc<sources::Published> {
    let endpoints = (1..=pods).map(|id| {
        let addresses = vec![Ipv4Addr::new(10, 0, 0, id as u8).into()];
        (
            format!("shop/{id}"),
            Arc::new(Endpoint { id, identity: 300 + id, addresses, ..Endpoint::default() }),
        )
    });
    let snapshot = Snapshot { revision, endpoints: endpoints.collect(), ..Snapshot::default() };
    Arc::new(sources::Published { snapshot: Arc::new(snapshot), ..Default::default() })
}

fn compile(snapshot: &Snapshot) -> CompiledPolicy {
    let endpoints = snapshot.endpoints.values().map(|pod| (pod.id, Arc::default())).collect();
    CompiledPolicy { revision: snapshot.revision, endpoints, ..CompiledPolicy::default() }
}

struct Fixture {
    log: Log,
    source: watch::Sender<Arc<sources::Published>>,
    published: watch::Receiver<Arc<Published>>,
    proxies: ProxyHub,
    socket: std::path::PathBuf,
    run_dir: Option<tempfile::TempDir>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn start(recorder: Recorder, revision: u32) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = dir.path().to_owned();
        let mut fixture = Self::resume(recorder, revision, &run_dir);
        fixture.run_dir = Some(dir);
        fixture
    }

    /// A publisher that finds what another one left in `run_dir`.
    fn resume(recorder: Recorder, revision: u32, run_dir: &std::path::Path) -> Self {
        let log = recorder.log.clone();
        let kernel = KernelHandle::start(recorder, Config::default()).expect("a thread");
        let (flows, _) = mpsc::channel(1);
        let proxies = ProxyHub::new(flows, Counter::default());
        let published = watch::Sender::default();
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(proxies.clone().serve(listener, nix::unistd::geteuid().as_raw()));
        let receiver = published.subscribe();
        let publisher = Publisher::new(Parts {
            kernel,
            proxies: proxies.clone(),
            veths: Arc::new(NoVeths([(1, 41), (2, 42)].into())),
            published,
            wake: Arc::default(),
            compile: Box::new(compile),
            revision,
            mark: mark::MarkFile::new(run_dir),
            publications: Counter::default(),
        });
        let (source, snapshots) = watch::channel(Arc::default());
        tokio::spawn(publisher.run(snapshots));
        Self { log, source, published: receiver, proxies, socket, run_dir: None, _dir: dir }
    }

    async fn proxy(&self) -> Proxy {
        let mut proxy = Proxy(UnixStream::connect(&self.socket).await.expect("the agent listens"));
        proxy.hello().await.expect("sent");
        while self.proxies.status().is_empty() {
            tokio::task::yield_now().await;
        }
        proxy
    }

    async fn revision(&mut self, revision: u32) -> Arc<Published> {
        self.published.wait_for(|p| p.revision == revision).await.expect("published").clone()
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("the log"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_follows_the_proxy_and_the_revision_never_goes_back() {
    let mut node = Fixture::start(Recorder::default(), 40);
    let mut proxy = node.proxy().await;
    node.source.send_replace(source(1, 2));
    let update = proxy.update().await.expect("an update");
    assert!(update.full);
    assert_eq!((update.revision, update.endpoints.len()), (41, 2));
    assert!(node.take_log().is_empty(), "the kernel waits for the proxy");
    proxy.ack(41, "").await.expect("sent");
    let published = node.revision(41).await;
    assert_eq!(published.endpoints, [1, 2].into());
    assert_eq!(
        node.take_log(),
        [
            "policies [1, 2]",
            "attach 1 to 41",
            "attach 2 to 42",
            "sync 0 prefixes",
            "revision 41",
            "retain {1, 2}",
            "retire"
        ]
    );

    // Removal: the proxy forgets after the kernel.
    node.source.send_replace(source(2, 1));
    let update = proxy.update().await.expect("an update");
    assert_eq!((update.full, update.revision), (false, 42));
    assert!(update.removed_endpoints.is_empty());
    proxy.ack(42, "").await.expect("sent");
    let update = proxy.update().await.expect("an update");
    assert_eq!((update.revision, update.removed_endpoints), (42, vec![2]));
    assert_eq!(node.take_log(), ["sync 0 prefixes", "revision 42", "retain {1}"]);
    proxy.ack(42, "").await.expect("sent");
    node.revision(42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_over_waits_for_the_proxy_to_come_back() {
    let mut node = Fixture::start(Recorder::default(), 40);
    node.source.send_replace(source(1, 1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.take_log().is_empty(), "the kernel must not be ahead of a proxy that is on its way");
    let mut proxy = node.proxy().await;
    assert_eq!(proxy.update().await.expect("an update").revision, 41);
    assert!(node.take_log().is_empty(), "nor of one that has not acknowledged");
    proxy.ack(41, "").await.expect("sent");
    node.revision(41).await;
    assert!(node.take_log().contains(&"revision 41".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_come_back_is_waited_for_only_so_long() {
    let mut node = Fixture::start(Recorder::default(), 40);
    node.source.send_replace(source(1, 1));
    tokio::time::timeout(PROXY_RETURN_MAX + ACK_MAX, node.revision(41)).await.expect("in force");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_counts_no_revision_for_what_is_in_force_already() {
    let mut node = Fixture::start(Recorder::default(), 0);
    node.source.send_replace(source(1, 2));
    node.revision(1).await;
    let run_dir = node.run_dir.as_ref().expect("its own").path().to_owned();
    let mut again = Fixture::resume(Recorder::default(), 1, &run_dir);
    let mut proxy = again.proxy().await;
    again.source.send_replace(source(7, 2));
    assert_eq!(proxy.update().await.expect("an update").revision, 1);
    proxy.ack(1, "").await.expect("sent");
    again.revision(1).await;
    again.source.send_replace(source(8, 1));
    assert_eq!(proxy.update().await.expect("an update").revision, 2);
    // With another state the count goes on.
    let mut third = Fixture::resume(Recorder::default(), 1, &run_dir);
    third.source.send_replace(source(9, 1));
    third.revision(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_proxy_holds_the_kernel_up_once_and_for_a_second() {
    let mut node = Fixture::start(Recorder::default(), 0);
    let mut proxy = node.proxy().await;
    node.source.send_replace(source(1, 1));
    proxy.update().await.expect("an update");
    let begin = Instant::now();
    let published = node.revision(1).await;
    assert!(begin.elapsed() >= ACK_MAX.mul_f32(0.9), "{:?}", begin.elapsed());
    assert!(published.proxy_problem.as_ref().is_some_and(|p| p.contains("did not acknowledge")));
    let begin = Instant::now();
    node.source.send_replace(source(2, 2));
    node.revision(2).await;
    assert!(begin.elapsed() < ACK_MAX, "a late proxy is not waited for again");
    // It catches up with one delta.
    proxy.ack(1, "").await.expect("sent");
    assert_eq!(proxy.update().await.expect("an update").revision, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_keep_the_old_policy_and_the_next_update_is_full() {
    let mut node = Fixture::start(Recorder::default(), 0);
    let mut proxy = node.proxy().await;
    node.source.send_replace(source(1, 1));
    proxy.update().await.expect("an update");
    proxy.ack(1, "rule 3: bad regex").await.expect("sent");
    let published = node.revision(1).await;
    assert!(published.proxy_problem.as_ref().is_some_and(|p| p.contains("bad regex")), "{published:?}");
    node.source.send_replace(source(2, 2));
    assert!(proxy.update().await.expect("an update").full);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_while_the_source_loads_nor_when_nothing_changed() {
    let mut node = Fixture::start(Recorder::default(), 0);
    node.source.send_replace(source(0, 0));
    node.source.send_replace(source(1, 1));
    node.revision(1).await;
    node.take_log();
    node.source.send_replace(source(2, 1));
    node.published.changed().await.expect("published");
    assert_eq!(node.published.borrow().revision, 1);
    assert!(node.take_log().is_empty(), "live connections need not be decided anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_written_leaves_none_rather_than_the_old_one() {
    let recorder = Recorder { refused: [2].into(), ..Recorder::default() };
    let mut node = Fixture::start(recorder, 0);
    node.source.send_replace(source(1, 2));
    let published = node.revision(1).await;
    assert_eq!(published.endpoints, [1].into());
    assert!(published.problems[0].starts_with("endpoint 2: "), "{:?}", published.problems);
    let log = node.take_log();
    assert_eq!(log[..2], ["policies [1]", "remove policy 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_cannot_be_left_is_told_of_and_left_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let run_dir = dir.path().join("run");
    // A file where the folder shall be: nothing can be written there, by root neither.
    std::fs::write(&run_dir, "").expect("a file");
    let mut node = Fixture::resume(Recorder::default(), 0, &run_dir);
    node.source.send_replace(source(1, 2));
    let published = node.revision(1).await;
    assert!(
        published.mark_problem.as_ref().is_some_and(|why| why.contains("published.json")),
        "{published:?}"
    );
    std::fs::remove_file(&run_dir).expect("removed");
    std::fs::create_dir(&run_dir).expect("a folder");
    let mended = node.published.wait_for(|p| p.mark_problem.is_none()).await.expect("it goes on").clone();
    assert_eq!(mended.revision, 1, "nothing is published anew for it");
    assert!(run_dir.join(mark::FILE).exists());
}
