//! A folder of manifests: which files there are, which changed since the last look, and what they hold now.
//! A look costs one `stat` for each file; only files that changed are read.
//!
//! Hidden files and folders (a name that starts with a dot) are passed over: editors' temporary files, and
//! the versioned folders of a ConfigMap mount, whose visible names are links into them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::OFlag;

use super::file::Contents;
use super::problem::{Fault, PlacedFault};
use super::signals::SETTLE;
use crate::yaml::{Position, TEXT_BYTES_MAX};

/// Most files of one folder.
pub const FILES_MAX: usize = 100_000;
/// Deepest folder below the root.
const DEPTH_MAX: usize = 16;
/// How often one look begins anew because files moved meanwhile.
const ROUNDS_MAX: usize = 5;
/// How long a file that held objects must be empty before that counts: a shell empties a file long before
/// the program writes to it that was told to.
const EMPTY_SETTLE: Duration = Duration::from_secs(2);
/// How often it is told how many files of a large folder were read.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// The folder and what is known of its files.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    known: BTreeMap<Arc<PathBuf>, Known>,
}

/// What one look found.
#[derive(Debug, Default)]
pub struct Scan {
    pub changed: Vec<(Arc<PathBuf>, Contents)>,
    pub removed: Vec<Arc<PathBuf>>,
    /// Folders that cannot be read. Their files stay as they were.
    pub faults: Vec<(PathBuf, PlacedFault)>,
    /// Some files are being changed right now and were left alone: look again soon.
    pub unsettled: bool,
    /// How many files were read.
    pub read: usize,
}

#[derive(Debug)]
struct Known {
    /// `None`: not read yet, or it could not be.
    stamp: Option<Stamp>,
    hash: u64,
    has_content: bool,
    trouble: Option<String>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Time since the last change; a change in the future (a clock set back) is long ago.
    fn age(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or(Duration::MAX)
    }
}

impl Directory {
    pub fn new(root: PathBuf) -> Self {
        Self { root, known: BTreeMap::new() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at every file. `is_written` tells of files that somebody has open for writing.
    ///
    /// What it returns was there at one time: if anything moved while files were read (a ConfigMap mount
    /// was swapped), it looks again.
    pub fn scan(&mut self, is_written: impl Fn(&Path) -> bool) -> Scan {
        let mut scan = Scan::default();
        for _ in 0..ROUNDS_MAX {
            let before = Walk::of(&self.root);
            let calm = self.round(&before, &is_written, &mut scan);
            if calm {
                break;
            }
            let after = Walk::of(&self.root);
            let known = before.files.iter().map(|file| self.known.get(file).and_then(|k| k.stamp));
            // Files without a stamp are being written or cannot be read: another matter.
            let same = after.files == before.files
                && known.zip(&after.files).all(|(known, file)| known.is_none() || known == stamp(file));
            if same {
                break;
            }
        }
        scan
    }

    /// Compares the files with what is known. Returns whether nothing changed.
    fn round(&mut self, walk: &Walk, is_written: &impl Fn(&Path) -> bool, scan: &mut Scan) -> bool {
        let present: BTreeSet<&PathBuf> = walk.files.iter().collect();
        let held = |file: &Path| walk.faults.iter().any(|(folder, _)| file.starts_with(folder));
        let gone = self.known.keys().filter(|file| !present.contains(&***file) && !held(file));
        let gone: Vec<_> = gone.cloned().collect();
        let read = scan.read;
        let calm = gone.is_empty();
        for file in gone {
            self.known.remove(&file);
            scan.changed.retain(|(changed, _)| *changed != file);
            scan.removed.push(file);
        }
        scan.unsettled = false;
        let mut told = Instant::now();
        for (number, file) in walk.files.iter().enumerate() {
            self.look(file, is_written, scan);
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                tracing::info!(
                    "read {} of {} files of {}",
                    number + 1,
                    walk.files.len(),
                    self.root.display()
                );
            }
        }
        scan.removed.retain(|file| !present.contains(&**file));
        scan.faults.clone_from(&walk.faults);
        calm && scan.read == read
    }

    fn look(&mut self, path: &Path, is_written: &impl Fn(&Path) -> bool, scan: &mut Scan) {
        let known = self.known.get_key_value(&path.to_path_buf());
        let outcome = match read(path, known.map(|(_, k)| k), is_written) {
            Ok(outcome) => outcome,
            // Gone since the folder was read; the next look removes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link(path) => {
                scan.unsettled = true;
                return;
            }
            Err(error) => Outcome::Trouble(error.to_string()),
        };
        let file = known.map_or_else(|| Arc::new(path.to_path_buf()), |(file, _)| file.clone());
        match outcome {
            Outcome::Same => {}
            Outcome::Unsettled => scan.unsettled = true,
            Outcome::Trouble(reason) => {
                if known.is_none_or(|(_, k)| k.trouble.as_ref() != Some(&reason)) {
                    scan.changed.push((file.clone(), Contents::unreadable(reason.clone())));
                }
                let has_content = known.is_some_and(|(_, k)| k.has_content);
                let next = Known { stamp: None, hash: 0, has_content, trouble: Some(reason) };
                self.known.insert(file, next);
            }
            Outcome::Text(stamp, text) => {
                scan.read += 1;
                let mut hasher = DefaultHasher::new();
                hasher.write(text.as_bytes());
                let hash = hasher.finish();
                let same = known.is_some_and(|(_, k)| k.trouble.is_none() && k.hash == hash);
                let mut has_content = known.is_some_and(|(_, k)| k.has_content);
                if !same {
                    let contents = Contents::read(path, &text);
                    has_content = !contents.entries.is_empty();
                    scan.changed.push((file.clone(), contents));
                }
                self.known.insert(file, Known { stamp: Some(stamp), hash, has_content, trouble: None });
            }
        }
    }
}

enum Outcome {
    Same,
    Unsettled,
    Trouble(String),
    Text(Stamp, String),
}

fn read(path: &Path, known: Option<&Known>, is_written: &impl Fn(&Path) -> bool) -> io::Result<Outcome> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    if known.and_then(|k| k.stamp) == Some(stamp) {
        return Ok(Outcome::Same);
    }
    let had_content = known.is_some_and(|k| k.has_content);
    if stamp.age() < SETTLE || is_written(path) {
        return Ok(Outcome::Unsettled);
    }
    let (text, now) = match open_and_read(path)? {
        Ok(read) => read,
        Err(reason) => return Ok(Outcome::Trouble(reason)),
    };
    if now != stamp {
        return Ok(Outcome::Unsettled);
    }
    if had_content && text.trim().is_empty() && stamp.age() < EMPTY_SETTLE {
        return Ok(Outcome::Unsettled);
    }
    Ok(Outcome::Text(stamp, text))
}

/// The text of one file, for those who do not watch it.
///
/// # Errors
/// Why it cannot be read, as a sentence.
pub fn read_text(path: &Path) -> Result<String, String> {
    open_and_read(path).map_err(|error| error.to_string())?.map(|(text, _)| text)
}

/// The manifests below a folder in order of path, and the folders that cannot be read.
pub fn files_below(folder: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, PlacedFault)>) {
    let walk = Walk::of(folder);
    (walk.files, walk.faults)
}

/// The text of a file and its stamp after reading. The inner error is about the content.
fn open_and_read(path: &Path) -> io::Result<Result<(String, Stamp), String>> {
    // Not blocking: it may be a named pipe.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Err("not a regular file".to_owned()));
    }
    let too_large = || Ok(Err(format!("larger than {} MiB: split it", TEXT_BYTES_MAX >> 20)));
    if meta.size() > TEXT_BYTES_MAX as u64 {
        return too_large();
    }
    let bytes = read_all(&mut file, meta.size())?;
    if bytes.len() > TEXT_BYTES_MAX {
        return too_large();
    }
    let stamp = Stamp::of(&file.metadata()?);
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Ok((text, stamp)),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            Err(format!("line {line} is not UTF-8 text"))
        }
    })
}

fn read_all(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // One byte more, to notice a file that grows.
    file.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|meta| Stamp::of(&meta))
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// The manifests below a folder.
#[derive(Debug, Default)]
struct Walk {
    files: Vec<PathBuf>,
    faults: Vec<(PathBuf, PlacedFault)>,
    /// Folders on the way, by device and inode: a link may lead back.
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn of(folder: &Path) -> Self {
        let mut walk = Self::default();
        walk.folder(folder, 0);
        walk.files.sort();
        walk
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        if let Err(reason) = self.try_folder(folder, depth) {
            let fault = PlacedFault { at: Position::default(), fault: Fault::new("", reason) };
            self.faults.push((folder.to_owned(), fault));
        }
    }

    fn try_folder(&mut self, folder: &Path, depth: usize) -> Result<(), String> {
        let text = |error: io::Error| format!("cannot read the folder: {error}");
        if depth > DEPTH_MAX {
            return Err(format!("folders are nested more than {DEPTH_MAX} deep"));
        }
        let meta = fs::metadata(folder).map_err(text)?;
        if !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(text)? {
            let entry = entry.map_err(text)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let mut kind = entry.file_type().map_err(text)?;
            if kind.is_symlink() {
                match fs::metadata(&path) {
                    Ok(target) => kind = target.file_type(),
                    Err(_) if !is_manifest(&path) => continue,
                    // A broken link in place of a manifest is a manifest that cannot be read.
                    Err(_) => {}
                }
            }
            if kind.is_dir() {
                self.folder(&path, depth + 1);
            } else if is_manifest(&path) {
                if self.files.len() >= FILES_MAX {
                    return Err(format!("more than {FILES_MAX} files"));
                }
                self.files.push(path);
            }
        }
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}
