use tempfile::TempDir;

use super::*;

fn fixture() -> (TempDir, CniFiles, PathBuf) {
    let folder = TempDir::new().expect("folder");
    let (bin, conf) = (folder.path().join("bin"), folder.path().join("net.d"));
    let executable = folder.path().join("program");
    fs::write(&executable, "one").expect("written");
    let files = CniFiles::new(&bin, &conf, &"test".parse().expect("a name"));
    (folder, files, executable)
}

#[test]
fn files_are_put_there_kept_and_taken_away() {
    let (_folder, mut files, executable) = fixture();
    assert!(files.ensure(&executable).expect("installed"));
    assert!(!files.ensure(&executable).expect("nothing to do"));
    assert_eq!(fs::metadata(&files.program).expect("program").permissions().mode() & 0o777, 0o755);
    let list: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&files.configuration).expect("file")).expect("JSON");
    assert_eq!(list["plugins"][0], json!({"type": "heddle", "instance": "test"}));

    fs::write(&files.configuration, "{}").expect("overwritten");
    assert!(files.ensure(&executable).expect("put back"));
    fs::remove_file(&files.program).expect("removed");
    assert!(files.ensure(&executable).expect("put back"));
    let other = files.program.with_file_name("other");
    fs::write(&other, "something else").expect("written");
    fs::rename(&other, &files.program).expect("replaced");
    assert!(files.ensure(&executable).expect("put back"));
    assert_eq!(fs::read_to_string(&files.program).expect("program"), "one");
    assert_eq!(fs::read_to_string(&files.configuration).expect("file"), files.content);

    files.remove().expect("removed");
    files.remove().expect("removed already");
    for folder in [files.program.parent(), files.configuration.parent()] {
        assert_eq!(fs::read_dir(folder.expect("folder")).expect("folder").count(), 0, "nothing stays");
    }
}

#[test]
fn neighbours_are_noticed() {
    let (_folder, mut files, executable) = fixture();
    files.ensure(&executable).expect("installed");
    let beside = |name: &str| fs::write(files.configuration.with_file_name(name), "{}").expect("written");
    beside("10-bridge.conflist");
    beside("00-notes.txt");
    assert_eq!(files.hidden_by(), None);
    beside("01-other.conf");
    assert!(files.hidden_by().is_some_and(|path| path.ends_with("01-other.conf")));
    files.check_alone().expect("alone");
    beside("05-cilium.conflist");
    files.check_alone().expect_err("Cilium is here");
}
