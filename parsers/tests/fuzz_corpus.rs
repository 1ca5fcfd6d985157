//! The checks of the fuzz targets on their committed inputs, so that what was once found stays mended
//! without a fuzzer.

use std::path::Path;

#[path = "../fuzz/checks.rs"]
mod checks;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an input").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("an input"));
        count += 1;
    }
    assert!(count >= 5, "{target}: {count} inputs");
}

#[test]
fn authority() {
    replay("authority", checks::authority);
}

#[test]
fn detect() {
    replay("detect", checks::detect);
}

#[test]
fn h2() {
    replay("h2", checks::h2);
}

#[test]
fn head() {
    replay("head", checks::head);
}

#[test]
fn http1() {
    replay("http1", checks::http1);
}

#[test]
fn path() {
    replay("path", checks::path);
}
