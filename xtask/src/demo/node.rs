//! The demo's node: a network namespace, a copy of the shop's manifests to edit, and `heddle run`.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Interrupt;
use crate::host;

const INSTANCE: &str = "demo";
const NAMESPACE: &str = "heddle-demo";
/// From the ranges for documentation (RFC 5737, RFC 3849).
const NODE_ADDRESSES: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
/// How long the shop may take to be ready, and to end.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);

/// A running shop.
#[derive(Debug)]
pub(crate) struct Node {
    heddle: PathBuf,
    folder: PathBuf,
    child: Child,
    interrupt: Interrupt,
}

impl Node {
    /// Starts it with the programs of `binaries` and waits until it is ready.
    pub(crate) fn start(binaries: &Path, interrupt: Interrupt) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("heddle-demo-{}", std::process::id()));
        let manifests = folder.join("manifests");
        std::fs::create_dir_all(&manifests).with_context(|| format!("make {}", manifests.display()))?;
        for file in ["shop.yaml", "policy.yaml"] {
            let from = host::workspace().join("examples/shop/manifests").join(file);
            std::fs::copy(&from, manifests.join(file)).with_context(|| format!("copy {}", from.display()))?;
        }
        // What an earlier demo that was killed may have left.
        let _ = Command::new("ip").args(["netns", "del", NAMESPACE]).stderr(Stdio::null()).status();
        ip(&["netns", "add", NAMESPACE])?;
        ip(&["-n", NAMESPACE, "link", "set", "lo", "up"])?;
        // A node has an address: kubelet-like probes come from it.
        ip(&["-n", NAMESPACE, "link", "add", "uplink", "type", "veth", "peer", "name", "outside"])?;
        for address in NODE_ADDRESSES {
            ip(&["-n", NAMESPACE, "addr", "add", address, "dev", "uplink"])?;
        }
        ip(&["-n", NAMESPACE, "link", "set", "uplink", "up"])?;
        let heddle = binaries.join("heddle");
        let log = File::create(folder.join("log"))?;
        let path = std::env::join_paths(
            std::iter::once(binaries.to_path_buf())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        println!("==> start the shop: heddle run --manifests examples/shop/manifests --run-pods");
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{NAMESPACE}"))
            .arg(&heddle)
            .args(["run", "--run-pods", "--instance", INSTANCE, "--node-name", "demo", "--manifests"])
            .arg(&manifests)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches us alone; we end it in order.
            .process_group(0)
            .spawn()
            .context("start heddle")?;
        let mut node = Self { heddle, folder, child, interrupt };
        match node.wait_until_ready() {
            Ok(()) => Ok(node),
            Err(error) => {
                if !node.interrupt.is_set() {
                    eprintln!("{}", node.log());
                }
                node.stop()?;
                Err(error)
            }
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.check_interrupt()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("heddle run ended: {status}");
            }
            let output = self.heddle(&["endpoint", "list", "-o", "json"]).output()?;
            let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let endpoints = list["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_ready = |name: &str| endpoints.iter().any(|e| e["name"] == name && e["ready"] == true);
            if ["web", "orders", "payments"].iter().all(|name| is_ready(name)) {
                println!(
                    "    ready after {:.1} s: namespace shop with web, orders, payments",
                    start.elapsed().as_secs_f32()
                );
                return Ok(());
            }
            if start.elapsed() > START_MAX {
                bail!("the shop is not ready after {START_MAX:?}: {list}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Fails once Ctrl-C was pressed.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        self.interrupt.check()
    }

    /// A `heddle` command for this node.
    pub(crate) fn heddle(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.heddle);
        command.args(["--instance", INSTANCE]).args(words).stdin(Stdio::null());
        command
    }

    /// A command in the node's network namespace.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{NAMESPACE}")).arg(program).stdin(Stdio::null());
        command
    }

    /// The policy file that the tour edits.
    pub(crate) fn policy(&self) -> PathBuf {
        self.folder.join("manifests/policy.yaml")
    }

    /// What its processes logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Three commands for a reader who wants to go on.
    pub(crate) fn print_what_to_try(&self) {
        let heddle = format!("sudo {} --instance {INSTANCE}", self.heddle.display());
        println!("\nThe shop goes on until Ctrl-C. Try, in another terminal:");
        println!("  {heddle} exec shop/web -- curl -si -H 'X-Token: shop' http://orders/orders/7");
        println!("  {heddle} flows -f");
        println!("  sudo $EDITOR {}   # and see it enforced", self.policy().display());
    }

    /// Ends everything and removes it.
    pub(crate) fn stop(mut self) -> Result<()> {
        println!("==> stop the shop and remove what it made");
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let end = Instant::now() + STOP_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                self.child.kill()?;
                self.child.wait()?;
                bail!("heddle run did not end within {STOP_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        ip(&["netns", "del", NAMESPACE])?;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(words).status().context("ip")?;
    if !status.success() {
        bail!("ip {}: {status}", words.join(" "));
    }
    Ok(())
}
