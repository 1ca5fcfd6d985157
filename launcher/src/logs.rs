//! Log files of containers: bounded, one older file kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tracing::warn;

/// Bytes read from a container at a time.
const READ_BUFFER: usize = 16 << 10;

/// A log file that begins anew when it is full; the full one stays as `<name>.1`.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
}

impl LogFile {
    /// Opens for appending.
    pub(crate) fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, size, max })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What is read at a time may be more than a file may hold.
        let most = usize::try_from(self.max).unwrap_or(usize::MAX).max(1);
        bytes.chunks(most).try_for_each(|part| self.append(part))
    }

    fn append(&mut self, part: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + part.len() as u64 > self.max {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            *self = LogFile::open(&self.path, self.max)?;
        }
        self.file.write_all(part)?;
        self.size += part.len() as u64;
        Ok(())
    }
}

/// Copies what comes out of the pipe until its last writer is gone. A disk that is full loses lines, it does
/// not stop the container.
pub(crate) async fn copy(from: OwnedFd, mut log: LogFile) {
    let mut pipe = match pipe::Receiver::from_owned_fd(from) {
        Ok(pipe) => pipe,
        Err(error) => return warn!(log = %log.path.display(), %error, "no log for this container"),
    };
    let mut buffer = vec![0; READ_BUFFER];
    let mut failing = false;
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        match log.write(&buffer[..n]) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                warn!(log = %log.path.display(), %error, "log lines are lost");
            }
            Err(_) => {}
        }
    }
}
