//! A Rust compiler and a linker for BPF, in a folder of our own.
//!
//! The core library for BPF must come from the same compiler. Debian packages one (rustc-web with
//! libstd-rust-web-dev-bpf); its packages are unpacked, not installed, so that the machine's Rust stays
//! as it is. Elsewhere rustup's nightly builds core from source.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::first_line;
use crate::host;

/// The last one that links with its own LLVM.
const BPF_LINKER: &str = "0.10.3";
/// Debian's compiler and its core library for BPF; the libraries that they need are looked up.
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Runs Debian's compiler with Debian's LLVM. Cargo gives each crate a number that, outside the registry,
/// depends on the crate's folder, and functions are ordered by it: ours get a fixed one, so that every
/// clone builds the same bytes.
const WRAPPER: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name abi "* | *" --crate-name heddle "*)
    for argument; do
        shift
        case "$argument" in metadata=*) argument=metadata=heddle ;; esac
        set -- "$@" "$argument"
    done
    ;;
esac
LD_LIBRARY_PATH='PREFIX/usr/lib/x86_64-linux-gnu' exec 'PREFIX/usr/bin/rustc' "$@"
"#;

enum Compiler {
    /// Debian's, unpacked below this prefix.
    Debian(PathBuf),
    /// rustup's nightly with rust-src.
    Nightly,
}

/// Compiler, linker and the folder that they and their output live in.
pub(super) struct Toolchain {
    pub(super) cache: PathBuf,
    compiler: Compiler,
}

impl Toolchain {
    /// Fetches what is missing.
    pub(super) fn prepare(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        // Cargo changes folders: a relative path would mean something else there.
        let cache = cache.canonicalize()?;
        let compiler = compiler(&cache)?;
        install_linker(&cache)?;
        Ok(Self { cache, compiler })
    }

    /// What decides the bytes of the object, for the record beside it.
    pub(super) fn record(&self) -> Result<String> {
        let mut command = match &self.compiler {
            Compiler::Debian(prefix) => Command::new(wrapper(prefix)),
            Compiler::Nightly => {
                let mut command = Command::new("rustc");
                command.arg("+nightly");
                command
            }
        };
        let rustc = first_line(command.arg("--version")).context("the BPF compiler does not run")?;
        let package = match &self.compiler {
            Compiler::Debian(prefix) => std::fs::read_to_string(prefix.join("packages")).unwrap_or_default(),
            Compiler::Nightly => String::new(),
        };
        Ok(format!("{rustc}\n{package}bpf-linker {BPF_LINKER}\n"))
    }

    /// A cargo command that builds for BPF.
    pub(super) fn cargo(&self) -> Result<Command> {
        let mut command = match &self.compiler {
            Compiler::Debian(prefix) => {
                let mut command = host::cargo();
                // `aya_ebpf` uses unstable features for BPF's inline assembly.
                command.env("RUSTC", wrapper(prefix)).env("RUSTC_BOOTSTRAP", "aya_ebpf,heddle");
                command
            }
            Compiler::Nightly => {
                let mut command = Command::new("cargo");
                command.args(["+nightly", "-Zbuild-std=core"]).env_remove("CARGO").env_remove("RUSTC");
                command.env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        let tools = self.cache.join("tools/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&path)))?;
        command
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", self.cache.join("target"))
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER");
        Ok(command)
    }
}

/// The script that is the compiler for cargo.
fn wrapper(prefix: &Path) -> PathBuf {
    prefix.join("rustc-bpf")
}

fn compiler(cache: &Path) -> Result<Compiler> {
    let prefix = cache.join("debian");
    if prefix.is_dir() {
        write_wrapper(&prefix)?;
        if first_line(Command::new(wrapper(&prefix)).arg("--version")).is_some() {
            return Ok(Compiler::Debian(prefix));
        }
    }
    if first_line(Command::new("apt-get").arg("--version")).is_some() {
        match unpack(cache, &prefix).and_then(|()| write_wrapper(&prefix)) {
            Ok(()) => return Ok(Compiler::Debian(prefix)),
            Err(error) => println!("    no compiler from Debian's packages: {error:#}"),
        }
    }
    let mut sysroot = Command::new("rustc");
    sysroot.args(["+nightly", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN").stderr(Stdio::null());
    let source = |root: String| Path::new(&root).join("lib/rustlib/src/rust/library/core").is_dir();
    if first_line(&mut sysroot).is_some_and(source) {
        return Ok(Compiler::Nightly);
    }
    bail!(
        "no compiler for BPF: it comes from Debian's packages rustc-web and libstd-rust-web-dev-bpf (Debian 12 or \
         newer, with a network), or from rustup: `rustup toolchain install nightly --component rust-src`"
    )
}

/// Downloads and unpacks Debian's packages. The prefix appears whole or not at all.
fn unpack(cache: &Path, prefix: &Path) -> Result<()> {
    let (debs, partial) = (cache.join("debs"), cache.join("debian.partial"));
    for folder in [&debs, &partial, &prefix.to_path_buf()] {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
    }
    std::fs::create_dir_all(&debs)?;
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]).stdout(Stdio::null());
    if let Err(error) = host::step("update the list of packages", &mut update) {
        // Without root the list is as old as it is; that is often good enough.
        println!("    {error:#}");
    }
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq"]).args(packages()?).current_dir(&debs).stderr(Stdio::null());
    host::step("download the compiler for BPF (about 120 MB)", &mut download)?;
    std::fs::create_dir_all(&partial)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&debs)? {
        let entry = entry?;
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(entry.path()).arg(&partial);
        let name = entry.file_name().to_string_lossy().into_owned();
        host::step(&format!("unpack {name}"), &mut unpack)?;
        names.push(format!("{name}\n"));
    }
    names.sort();
    std::fs::write(partial.join("packages"), names.concat())?;
    std::fs::rename(&partial, prefix)?;
    std::fs::remove_dir_all(&debs)?;
    Ok(())
}

/// Writes the script that is the compiler for cargo.
fn write_wrapper(prefix: &Path) -> Result<()> {
    let script = WRAPPER.replace("PREFIX", &prefix.display().to_string());
    let path = wrapper(prefix);
    std::fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// [`PACKAGES`] and the Rust and LLVM libraries that they depend on, which carry versions in their names.
fn packages() -> Result<Vec<String>> {
    let mut wanted: Vec<String> = PACKAGES.map(String::from).into();
    let mut next = 0;
    while let Some(package) = wanted.get(next).cloned() {
        next += 1;
        let output = Command::new("apt-cache").args(["depends", &package]).output().context("apt-cache")?;
        if !output.status.success() {
            bail!("there is no package {package}");
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some(name) = line.trim().strip_prefix("Depends: ") else { continue };
            let ours = name.starts_with("libstd-rust-web") || name.starts_with("libllvm");
            if ours && !wanted.iter().any(|have| have == name) {
                wanted.push(name.to_owned());
            }
        }
    }
    Ok(wanted)
}

fn install_linker(cache: &Path) -> Result<()> {
    let root = cache.join("tools");
    let installed = first_line(Command::new(root.join("bin/bpf-linker")).arg("--version"));
    if installed.is_some_and(|line| line.ends_with(BPF_LINKER)) {
        return Ok(());
    }
    let mut install = host::cargo();
    install
        .args(["install", "--quiet", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force", "--root"])
        .arg(&root)
        .current_dir(cache)
        .env("CARGO_TARGET_DIR", cache.join("linker-build"))
        .env_remove("RUSTFLAGS");
    host::step(&format!("build bpf-linker {BPF_LINKER} (about two minutes)"), &mut install)?;
    std::fs::remove_dir_all(cache.join("linker-build")).context("remove what the linker was built with")
}
