//! `cargo xtask bpf`: builds the kernel programs and commits them beside their source, so that building the
//! rest needs stable Rust alone; `--check` proves that the committed object is what its source says.

mod object;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::host;
use toolchain::Toolchain;

/// Build the kernel programs (Rust, aya-ebpf) into ebpf-redirect/heddle.bpf.o.
#[derive(Debug, Args)]
#[command(
    after_help = "The compiler and linker for BPF are fetched into ~/.cache/heddle/bpf (about 120 MB, once).\n\n\
    Examples:\n  cargo xtask bpf\n  cargo xtask bpf --check"
)]
pub(crate) struct Bpf {
    /// Write nothing: prove that the committed object matches its source. With another compiler than the
    /// recorded one, rebuild it elsewhere and run the program tests against that.
    #[arg(long)]
    check: bool,
}

impl Bpf {
    /// Builds, then writes or compares.
    pub(crate) fn run(&self) -> Result<()> {
        let toolchain = Toolchain::prepare(&cache_dir()?)?;
        let built = build(&toolchain)?;
        let record = toolchain.record()?;
        let folder = host::workspace().join("ebpf-redirect");
        let (object, note) = (folder.join("heddle.bpf.o"), folder.join("heddle.bpf.txt"));
        if !self.check {
            write(&object, &built)?;
            write(&note, record.as_bytes())?;
            println!("    wrote {} ({} bytes)", object.display(), built.len());
            return Ok(());
        }
        let recorded = std::fs::read_to_string(&note).unwrap_or_default();
        if recorded == record {
            return compare(&object, &built);
        }
        println!("    built with\n{record}    recorded is\n{recorded}    so the bytes cannot be compared");
        let rebuilt = toolchain.cache.join("rebuilt.bpf.o");
        write(&rebuilt, &built)?;
        let mut tests = host::cargo();
        tests
            .args(["test", "--locked", "--package", "ebpf-redirect", "--test", "programs"])
            .env("HEDDLE_BPF_OBJECT", &rebuilt);
        host::step("run the program tests on the rebuilt object", &mut tests)
    }
}

/// Where the toolchain and what it builds are kept; nothing outside it is touched.
fn cache_dir() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(cache.join("heddle/bpf"))
}

/// Builds `ebpf-redirect/kern` and gives the object without its debug sections.
fn build(toolchain: &Toolchain) -> Result<Vec<u8>> {
    let kern = host::workspace().join("ebpf-redirect/kern");
    let mut command = toolchain.cargo()?;
    command
        .current_dir(&kern)
        .args(["build", "--quiet", "--release", "--locked", "--target", "bpfel-unknown-none"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&toolchain.cache)?.join("\x1f"));
    host::step("build the kernel programs", &mut command)?;
    let path = toolchain.cache.join("target/bpfel-unknown-none/release/heddle");
    let linked = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    object::strip(&linked).with_context(|| format!("strip {}", path.display()))
}

/// Compiler flags. Paths are remapped: they are part of the line information that the verifier prints.
fn flags(cache: &Path) -> Result<Vec<String>> {
    let mut flags: Vec<String> =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", "--cfg=bpf_target_arch=\"x86_64\""].map(String::from).into();
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    flags.push(remap(&host::workspace(), "/heddle"));
    flags.push(remap(&cache.join("target"), "/target"));
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    // One folder per registry, named after it with a hash.
    for entry in std::fs::read_dir(home.join("registry/src")).into_iter().flatten() {
        flags.push(remap(&entry?.path(), "/cargo"));
    }
    flags.sort();
    Ok(flags)
}

fn compare(object: &Path, built: &[u8]) -> Result<()> {
    let committed = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
    if committed != built {
        bail!(
            "{} is not what its source builds to: run `cargo xtask bpf` and commit the result",
            object.display()
        );
    }
    println!("    {} matches its source, byte for byte", object.display());
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// First line of a command's output.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
