//! cgroup v2 folders: `<instance>/pods/<namespace>_<pod>/<container>`. They tell pods from the node for the
//! connect hooks, and let the launcher end all processes of a container at once (`cgroup.kill`, Linux 5.14).

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long killed processes may take to disappear.
const EMPTY_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks.
const EMPTY_POLL: Duration = Duration::from_millis(5);

/// Makes the folder and its parents.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Ends every process in the folder and below it, and waits until they are gone.
pub(crate) async fn kill(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome?,
    }
    let end = Instant::now() + EMPTY_MAX;
    while populated(path)? {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "processes survive cgroup.kill"));
        }
        tokio::time::sleep(EMPTY_POLL).await;
    }
    Ok(())
}

/// Ends what is left in the folder and removes it with everything below. Missing is removed.
pub(crate) async fn remove(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    kill(path).await?;
    remove_tree(path)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Files of a cgroup are the kernel's; only folders can be removed.
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn populated(path: &Path) -> io::Result<bool> {
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
