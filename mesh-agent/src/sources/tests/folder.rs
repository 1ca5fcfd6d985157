//! Files come, go, move and are written in all the ways that editors and tools do it.

use std::io::Write;
use std::os::unix::fs::symlink;

use nix::sys::resource::{UsageWho, getrusage};

use super::*;

/// Most processor time that 5,000 files may take.
const LOAD_MAX: Duration = Duration::from_secs(20);

#[test]
fn changes_arrive() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    let first = f.now();
    assert!(policy(&first, "a").is_some());
    assert_eq!(first.snapshot.revision, 1);
    f.write("sub/b.yml", &allow("b", "\"81\""));
    let second = f.until("b", |p| policy(p, "b").is_some());
    assert!(Arc::ptr_eq(&policy(&first, "a").expect("a"), &policy(&second, "a").expect("a")));
    assert!(second.snapshot.revision > first.snapshot.revision);
    f.remove("a.yaml");
    f.until("a is gone", |p| policy(p, "a").is_none() && policy(p, "b").is_some());
}

#[test]
fn a_file_written_anew_without_change_changes_nothing() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    f.write("a.yaml", &format!("# a comment\n{}", allow("a", "\"80\"")));
    f.write("marker.yaml", &allow("marker", "\"1\""));
    let now = f.until("marker", |p| policy(p, "marker").is_some());
    assert_eq!(now.snapshot.revision, 2);
}

#[test]
fn json_lists_and_several_documents() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
	{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one", "labels": {"team": "a"}}},
	{"apiVersion": "v1", "kind": "Pood", "metadata": {"name": "two"}},
	{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "Three"}}]}"#;
    let two = format!("{}---\n{}", allow("a", "\"80\""), allow("b", "\"80\""));
    let f = Fixture::new(&[("list.json", list), ("two.yaml", &two), ("read.me", "kind: [")]);
    let now = f.now();
    assert!(policy(&now, "a").is_some() && policy(&now, "b").is_some());
    assert_eq!(now.snapshot.namespaces["one"].labels["team"], "a");
    assert_eq!(now.snapshot.namespaces["one"].labels["kubernetes.io/metadata.name"], "one");
    assert!(tells(&now, &["list.json:3:2", "Pood two", "is ignored"]), "{:?}", texts(&now));
    assert!(tells(&now, &["list.json:4:", "Three", "metadata.name"]), "{:?}", texts(&now));
    assert_eq!(now.problems.len(), 2, "{:?}", texts(&now));
}

#[test]
fn editors_leave_no_trace() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    // vim: a probe, a backup, the new file, the swap file.
    f.write("4913", "");
    f.write(".a.yaml.swp", "kind: [");
    f.write("a.yaml~", "kind: [");
    // Renamed over the old one.
    f.write(".a.yaml.tmp", &allow("a", "\"81\""));
    fs::rename(f.path(".a.yaml.tmp"), f.path("a.yaml")).expect("renamed");
    let before = f.now().snapshot.revision;
    let now = f.until("the new version", |p| p.snapshot.revision > before);
    assert_eq!(texts(&now), [""; 0]);
}

#[test]
fn a_config_map_mount_swaps_at_once() {
    let manifests = TempDir::new().expect("folder");
    let root = manifests.path().to_owned();
    write(&root, "..v1/a.yaml", &allow("a", "\"80\""));
    write(&root, "..v1/b.yaml", &allow("b", "\"80\""));
    symlink("..v1", root.join("..data")).expect("link");
    symlink("..data/a.yaml", root.join("a.yaml")).expect("link");
    symlink("..data/b.yaml", root.join("b.yaml")).expect("link");
    let f = Fixture::over(manifests, TempDir::new().expect("folder"));
    let first = f.now();
    assert_eq!(first.snapshot.policies.len(), 2);
    write(&root, "..v2/a.yaml", &allow("a", "\"81\""));
    write(&root, "..v2/b.yaml", &allow("b", "\"81\""));
    symlink("..v2", root.join("..data_tmp")).expect("link");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swapped");
    let now = f.until("both", |p| p.snapshot.revision > first.snapshot.revision);
    for name in ["a", "b"] {
        assert_ne!(policy(&now, name), policy(&first, name), "{name}: one swap, one snapshot");
    }
}

#[test]
fn a_slow_writer_is_waited_for() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    let first = f.now();
    // As a shell does it: emptied at once, written when the program comes to it.
    let mut file = fs::File::create(f.path("a.yaml")).expect("truncated");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(f.now().snapshot.revision, first.snapshot.revision, "an empty file that is still open");
    let text = allow("a", "\"81\"");
    let (head, tail) = text.split_at(text.len() / 2);
    file.write_all(head.as_bytes()).expect("half");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(f.now().snapshot.revision, first.snapshot.revision, "half a file that is still open");
    file.write_all(tail.as_bytes()).expect("whole");
    drop(file);
    let now = f.until("the new version", |p| p.snapshot.revision > first.snapshot.revision);
    assert_eq!(texts(&now), [""; 0]);
}

#[test]
fn a_file_that_stays_empty_removes_its_objects() {
    let f = Fixture::new(&[("a.yaml", &allow("a", "\"80\""))]);
    f.write("a.yaml", "");
    f.until("a is gone", |p| policy(p, "a").is_none());
}

#[test]
fn a_folder_that_goes_away_changes_nothing() {
    let f = Fixture::new(&[("m/a.yaml", &allow("a", "\"80\""))]);
    let root = f.manifests.path().to_owned();
    let aside = root.with_extension("aside");
    fs::rename(&root, &aside).expect("moved away");
    let now = f.until("a message", |p| tells(p, &["cannot read the folder", "last state"]));
    assert!(policy(&now, "a").is_some());
    fs::rename(&aside, &root).expect("moved back");
    f.until("no message", |p| p.problems.is_empty());
    f.write("b.yaml", &allow("b", "\"80\""));
    f.until("b", |p| policy(p, "b").is_some());
}

#[test]
fn another_folder_of_the_same_name_counts() {
    let parent = TempDir::new().expect("folder");
    write(parent.path(), "v1/a.yaml", &allow("a", "\"80\""));
    write(parent.path(), "v2/b.yaml", &allow("b", "\"80\""));
    symlink("v1", parent.path().join("current")).expect("link");
    let state = TempDir::new().expect("folder");
    let options = Options {
        manifests: parent.path().join("current"),
        state_dir: state.path().to_owned(),
        surrounding: surrounding(),
        ..Options::default()
    };
    let f = Fixture { sources: Sources::start(options).expect("starts"), manifests: parent, state };
    symlink("v2", f.path("next")).expect("link");
    fs::rename(f.path("next"), f.path("current")).expect("swapped");
    f.until("v2", |p| policy(p, "a").is_none() && policy(p, "b").is_some());
    f.write("v2/c.yaml", &allow("c", "\"80\""));
    f.until("c", |p| policy(p, "c").is_some());
}

#[test]
fn a_missing_folder_is_an_error() {
    let options = Options { manifests: "/nowhere/at/all".into(), ..Options::default() };
    let error = Sources::start(options).expect_err("no folder");
    assert_eq!(
        error.to_string(),
        "--manifests /nowhere/at/all: No such file or directory (os error 2): make the folder, or name the one that \
         holds your YAML"
    );
}

#[test]
fn strange_files_are_told_of() {
    let manifests = TempDir::new().expect("folder");
    let root = manifests.path().to_owned();
    nix::unistd::mkfifo(&root.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("pipe");
    symlink("nowhere", root.join("link.yaml")).expect("link");
    symlink(".", root.join("loop")).expect("link");
    fs::write(root.join("bytes.yaml"), b"a: 1\nb: \xff\n").expect("written");
    let big = fs::File::create(root.join("big.yaml")).expect("file");
    big.set_len(crate::yaml::TEXT_BYTES_MAX as u64 + 1).expect("grown");
    write(&root, "good.yaml", &allow("a", "\"80\""));
    let f = Fixture::over(manifests, TempDir::new().expect("folder"));
    let now = f.until("all messages", |p| p.problems.len() == 4);
    assert!(policy(&now, "a").is_some());
    assert!(tells(&now, &["pipe.yaml", "not a regular file"]));
    assert!(tells(&now, &["link.yaml", "No such file"]));
    assert!(tells(&now, &["bytes.yaml", "line 2 is not UTF-8"]));
    assert!(tells(&now, &["big.yaml", "split it"]));
}

#[test]
fn five_thousand_files_and_a_change_to_one() {
    let manifests = TempDir::new().expect("folder");
    for n in 0..1_000 {
        for (kind, text) in [
            ("pod", pod(&format!("p{n}"), &format!("a{n}"))),
            ("svc", service(&format!("s{n}"), &format!("a{n}"), "")),
            ("pol1", allow(&format!("x{n}"), "\"80\"")),
            ("pol2", allow(&format!("y{n}"), "\"80\"")),
            ("pol3", allow(&format!("z{n}"), "\"80\"")),
        ] {
            write(manifests.path(), &format!("{}/{kind}-{n}.yaml", n % 10), &text);
        }
    }
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
        let time = usage.user_time() + usage.system_time();
        Duration::from_secs(time.tv_sec().unsigned_abs())
    };
    let before = used();
    let f = Fixture::over(manifests, TempDir::new().expect("folder"));
    let used = used() - before;
    eprintln!("loaded in {used:?}");
    let first = f.now();
    assert_eq!((first.snapshot.policies.len(), first.snapshot.services.len()), (3_000, 1_000));
    // Processor time, not optimised; about a tenth of it in a release build.
    assert!(used < LOAD_MAX, "{used:?}");
    f.write("0/pol1-0.yaml", &allow("x0", "\"81\""));
    let now = f.until("the change", |p| p.snapshot.revision > first.snapshot.revision);
    let same = |name: &str| Arc::ptr_eq(&policy(&first, name).expect("is"), &policy(&now, name).expect("is"));
    assert!(!same("x0") && same("x1") && same("z999"));
    let services = first.snapshot.services.iter().zip(&now.snapshot.services);
    assert!(services.into_iter().all(|(a, b)| Arc::ptr_eq(a.1, b.1)));
}

#[test]
fn only_files_that_changed_are_read() {
    let folder = TempDir::new().expect("folder");
    for n in 0..50 {
        write(folder.path(), &format!("{n}.yaml"), &allow(&format!("p{n}"), "\"80\""));
    }
    let mut directory = super::directory::Directory::new(folder.path().to_owned());
    let mut look = || {
        let mut read = 0;
        loop {
            let scan = directory.scan(|_| false);
            read += scan.read;
            if !scan.unsettled {
                return (read, scan.changed.len());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    assert_eq!(look().0, 50);
    assert_eq!(look(), (0, 0));
    write(folder.path(), "7.yaml", &allow("p7", "\"81\""));
    assert_eq!(look(), (1, 1));
    fs::File::open(folder.path().join("8.yaml"))
        .expect("file")
        .set_modified(std::time::SystemTime::now())
        .expect("touched");
    assert_eq!(look(), (1, 0), "touched, not changed");
}

#[test]
fn a_swap_while_files_are_read_is_seen_whole() {
    let folder = TempDir::new().expect("folder");
    let root = folder.path();
    for (version, port) in [("v1", "\"80\""), ("v2", "\"81\"")] {
        write(root, &format!("..{version}/a.yaml"), &allow("a", port));
        write(root, &format!("..{version}/b.yaml"), &allow("b", port));
    }
    symlink("..v1", root.join("..data")).expect("link");
    symlink("..v2", root.join("..next")).expect("link");
    symlink("..data/a.yaml", root.join("a.yaml")).expect("link");
    symlink("..data/b.yaml", root.join("b.yaml")).expect("link");
    std::thread::sleep(super::super::signals::SETTLE * 2);
    let mut directory = super::super::directory::Directory::new(root.to_owned());
    // a has been read when somebody asks about b.
    let scan = directory.scan(|file| {
        if file.ends_with("b.yaml") {
            let _ = fs::rename(root.join("..next"), root.join("..data"));
        }
        false
    });
    let newest: std::collections::BTreeMap<_, _> = scan.changed.iter().map(|(f, c)| (f.clone(), c)).collect();
    let texts = newest.values().map(|c| c.entries[0].manifest.to_string());
    assert_eq!(newest.len(), 2);
    assert!(texts.into_iter().all(|text| text.contains("81")));
    assert!(!scan.unsettled);
}
