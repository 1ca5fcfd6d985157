//! The committed cases of `conformance/corpus`, for the tests that run and that count them.

use std::path::PathBuf;

use serde_json::Value;

/// The folder of the corpus.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conformance/corpus")
}

/// Every case of the files whose names start with `prefix`, in the files' order.
pub(crate) fn cases(prefix: &str) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join("cases"))
        .expect("the folder of cases")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    files.sort();
    let mut out = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file of cases");
        out.extend(
            text.lines().map(|line| -> Value { serde_json::from_str(line).expect("a case per line") }),
        );
    }
    out
}
