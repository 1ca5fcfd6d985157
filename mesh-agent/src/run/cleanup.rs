//! Takes a node away: what a run leaves at its end, and what a killed one left behind.

use std::fs;
use std::path::Path;

use anyhow::Context;
use ebpf_redirect::{Datapath, Options, remove_pins};

use super::children::{Process, record_path};
use crate::agent::start::SYSCTLS;
use crate::agent::state;
use crate::layout::{Instance, cgroup2_mount};
use crate::node::{Plumbing, remove_cgroup};

/// Whether an earlier run of the instance was not removed.
pub(super) fn is_left(instance: &Instance) -> bool {
    instance.run_dir().exists() || instance.pin_base().exists()
}

/// Removes everything of the instance, whatever of it is there. Tries all of it; the first failure is
/// returned.
pub(super) async fn all(instance: &Instance, proxy_gid: u32) -> anyhow::Result<()> {
    end_processes(instance);
    let pods = end_pods(instance).await;
    let datapath = detach(instance, proxy_gid);
    let plumbing = tear_down(instance).await;
    let cgroup = remove_cgroup(instance).map_err(Into::into);
    let folders = remove_folder(&instance.run_dir()).and(remove_folder(&instance.state_dir()));
    pods.and(datapath).and(plumbing).and(cgroup).and(folders)
}

/// Agent and proxy of a run that was killed: told by process id and start time, so that a stranger who got
/// the number since is left alone.
pub(super) fn end_processes(instance: &Instance) {
    let record = state::read::<std::collections::BTreeMap<String, Process>>(&record_path(instance));
    for process in record.ok().flatten().unwrap_or_default().into_values() {
        process.kill();
    }
}

/// Processes of pods, and the launcher's own leftovers.
async fn end_pods(instance: &Instance) -> anyhow::Result<()> {
    let Some(mount) = cgroup2_mount() else { return Ok(()) };
    let cgroup = instance.cgroup(&mount);
    if !cgroup.exists() {
        return Ok(());
    }
    let heddle = std::env::current_exe().context("cannot find the heddle program itself")?;
    let mut options = launcher::Options::new(heddle, &instance.to_string(), cgroup);
    options.run_dir = instance.run_dir();
    // Removes what an earlier launcher left; there are no pods to end then.
    launcher::Launcher::start(options).await?.shutdown().await;
    Ok(())
}

fn detach(instance: &Instance, proxy_gid: u32) -> anyhow::Result<()> {
    let pin_root = instance.pin_root();
    if pin_root.exists() {
        let detached = Datapath::open(&Options { pin_root, proxy_gid })
            .map_err(anyhow::Error::from)
            .and_then(|datapath| Ok(datapath.detach_all()?));
        if let Err(error) = detached {
            // What is pinned below goes all the same, and with its pin a link is detached.
            tracing::warn!("programs cannot be detached one by one: {error:#}");
        }
    }
    // Of other versions of the layout too.
    let Ok(versions) = fs::read_dir(instance.pin_base()) else { return Ok(()) };
    for version in versions.flatten() {
        remove_pins(&version.path())?;
    }
    let base = instance.pin_base();
    fs::remove_dir(&base).with_context(|| format!("cannot remove {}", base.display()))?;
    // The folder of all instances, once the last is gone.
    let _ = base.parent().map(fs::remove_dir);
    Ok(())
}

async fn tear_down(instance: &Instance) -> anyhow::Result<()> {
    let plumbing = Plumbing::open(instance.run_dir().join(SYSCTLS))?;
    // Those that a container runtime attached: without programs nothing would be enforced on them.
    let links = plumbing.remove_marked(|link| link.mark.is_of(instance)).await;
    for link in links.as_deref().unwrap_or_default() {
        tracing::warn!("device {link} of a pod that lives on is removed: the pod has no network any more");
    }
    Ok(plumbing.tear_down().await.and(links.map(drop))?)
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => {
            // The folder of all instances, once the last is gone.
            let _ = folder.parent().map(fs::remove_dir);
            Ok(())
        }
    }
}
