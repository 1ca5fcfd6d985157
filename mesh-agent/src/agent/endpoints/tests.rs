use super::*;

fn request(container: &str, pod: &str) -> AllocateRequest {
    let attachment = Attachment { container_id: container.into(), ifname: "eth0".into() };
    AllocateRequest {
        attachment,
        namespace: "shop".into(),
        pod: pod.into(),
        uid: String::new(),
        wanted_until_ms: None,
    }
}

fn open(dir: &tempfile::TempDir) -> Endpoints {
    let cidrs = ["10.0.0.0/24".parse().expect("a CIDR"), "fd00::/64".parse().expect("a CIDR")];
    let mut endpoints = Endpoints::open(dir.path()).expect("state");
    endpoints.use_pod_cidrs(&cidrs).expect("room");
    endpoints
}

#[test]
fn allocation_is_idempotent_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut endpoints = open(&dir);
    let first = endpoints.allocate(&request("c1", "web")).expect("room");
    assert_eq!(endpoints.allocate(&request("c1", "web")).expect("the same"), first);
    let veth = Veth { ifindex: 7, mac: "02:00:00:00:00:01".into(), netns_cookie: 9 };
    endpoints.set_veth(&first.attachment, veth.clone()).expect("known");

    let mut again = open(&dir);
    assert_eq!(again.get(&first.attachment).and_then(|r| r.veth.clone()), Some(veth));
    let second = again.allocate(&request("c2", "api")).expect("room");
    assert_ne!(second.id, first.id);
    assert_ne!(second.host_ifname, first.host_ifname);
    assert_eq!(second.addresses[0].to_string(), "10.0.0.3");
    assert_eq!(second.allocated()[1].gateway.to_string(), "fe80::1");
}

#[test]
fn release_twice_is_no_error_and_frees_the_address_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut endpoints = open(&dir);
    let first = endpoints.allocate(&request("c1", "web")).expect("room");
    assert_eq!(endpoints.release(&first.attachment).expect("released"), Some(first.clone()));
    assert_eq!(endpoints.release(&first.attachment).expect("not known"), None);
    let second = endpoints.allocate(&request("c1", "web")).expect("room");
    assert_ne!(second.addresses, first.addresses);
    assert_ne!(second.id, first.id);
}

#[test]
fn one_attachment_never_serves_two_pods() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut endpoints = open(&dir);
    endpoints.allocate(&request("c1", "web")).expect("room");
    let error = endpoints.allocate(&request("c1", "api")).expect_err("another pod");
    assert_eq!(error.to_string(), "attachment c1/eth0 belongs to pod shop/web, not to shop/api");
}

#[test]
fn a_disk_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut endpoints = open(&dir);
    let kept = endpoints.allocate(&request("c1", "web")).expect("room");
    // A folder in the place of the temporary file makes every write fail, for root too.
    std::fs::create_dir(dir.path().join("endpoints.tmp")).expect("a folder");
    endpoints.allocate(&request("c2", "api")).expect_err("no write");
    endpoints.release(&kept.attachment).expect_err("no write");
    assert_eq!(endpoints.iter().count(), 1);
    std::fs::remove_dir(dir.path().join("endpoints.tmp")).expect("gone");
    assert!(endpoints.release(&kept.attachment).expect("released").is_some());
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join(FILE), "{\"lastId\": 1,").expect("written");
    let error = Endpoints::open(dir.path()).expect_err("damaged");
    assert!(error.to_string().contains("endpoints.json"), "{error}");
}
