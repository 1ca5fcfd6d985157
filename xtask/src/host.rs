//! The machine under the commands: who we are, what must be installed, how a step is shown.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Fails with one sentence unless we are root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("{what} needs root (it loads eBPF programs and makes network namespaces): run it with sudo -E")
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(workspace())
        .no_deps()
        .other_options(vec!["--offline".into()])
        .exec()
        .context("cargo metadata")?;
    Ok(metadata.target_directory.into_std_path_buf())
}

/// A `cargo` command in the workspace, with the cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs a step: says what it does, then how long it took; a failure ends the whole command.
pub(crate) fn step(title: &str, command: &mut Command) -> Result<()> {
    println!("==> {title}");
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{title}: cannot start"))?;
    if !status.success() {
        bail!("{title}: {status}");
    }
    println!("    {title}: {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Installs the Debian packages whose program is missing. Services that come with them are not left running.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| !has_program(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !has_program("apt-get") {
        let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        bail!("these programs are missing and there is no apt-get to install them: {}", names.join(", "));
    }
    install_packages(&packages)?;
    for (program, package) in missing {
        if !has_program(program) {
            bail!(
                "package {package} was installed, but there is no program {program}: is PATH missing /usr/sbin?"
            );
        }
        if has_program("systemctl") {
            let mut off = Command::new("systemctl");
            off.args(["disable", "--now", "--quiet", &format!("{program}.service")]);
            // Most packages bring no service: then there is nothing to stop.
            let _ = off.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
    Ok(())
}

/// Installs Debian packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        apt
    };
    step("update the list of packages", &mut apt(&["update", "-qq"]))?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    step(&format!("install {}", packages.join(", ")), &mut apt(&arguments))
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(name).is_file())
}
