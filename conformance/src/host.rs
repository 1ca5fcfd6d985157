//! The machine under the suites: privileges, the built programs, commands.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Whether the privileged suites can run here. If not, says so loudly; the caller returns.
pub fn privileged(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIPPED {test}: needs root for eBPF and network namespaces (sudo -E cargo xtask test)");
    false
}

/// A program of this workspace, built beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // target/debug/deps/suite-hash -> target/debug/name; a plain binary lies beside it already.
    let mut folder = test.parent().expect("a file lies in a folder").to_path_buf();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

/// Runs a command to its end and gives its output; panics with all of it if it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    run(Command::new("ip").args(words.split_whitespace()));
}
