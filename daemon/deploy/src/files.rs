//! Files of the repository, kept on the device by their SHA-256: `<digest>` whole and synced, `<digest>.part` on its way.
//!
//! A name of the repository is never a path here. What is read is hashed again: a file counts only when it is what its name
//! says.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tidegate_domain::limits;

use crate::durable;
use crate::refusal::{Kind, Refusal};
use crate::transport::{Answer, Bounded, FetchError, Request, Transport};
use crate::trust::hex;
use crate::verify::File;

const PART: &str = "part";
/// Bytes hashed at once.
const CHUNK: usize = 64 * 1024;

/// The folder.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        durable::make_dir(&self.dir)
    }

    /// Whether a file is here, by name and length. Its bytes are judged when they are read.
    pub(crate) fn has(&self, target: &File) -> bool {
        let path = self.path(&target.digest);
        fs::metadata(path).is_ok_and(|file| file.len() == target.length)
    }

    /// A file's bytes; `None` where it is not here, or is not what its name says and has been removed.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(&self, digest: &[u8; 32]) -> Result<Option<Vec<u8>>, Refusal> {
        let path = self.path(digest);
        let bytes = durable::read(&path, limits::MODULE_FILE_MOST_BYTES);
        let Some(bytes) = bytes.map_err(|error| local(&path, &error))? else {
            return Ok(None);
        };
        if <[u8; 32]>::from(Sha256::digest(&bytes)) == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!("{} is damaged and is fetched again", path.display());
        durable::remove(&path).map_err(|error| local(&path, &error))?;
        Ok(None)
    }

    /// Fetches a file of at most `most` bytes, or the rest of it. Returns the bytes that came.
    ///
    /// # Errors
    /// It did not come whole, or is not what was signed.
    pub(crate) async fn fetch(
        &self,
        transport: &dyn Transport,
        name: &str,
        target: &File,
        most: u64,
    ) -> Result<u64, Refusal> {
        if self.has(target) {
            return Ok(0);
        }
        let path = self.path(&target.digest);
        let part = path.with_extension(PART);
        let fail = |error: &io::Error| local(&part, error);
        if target.length > most {
            return Err(Refusal::new(
                Kind::Content,
                name,
                format!(
                    "it has {} bytes, and such a file has {most} at most",
                    target.length
                ),
                "the publisher has to make it smaller",
            ));
        }
        self.check_room(target.length)
            .map_err(|error| fail(&error))?;
        let (mut begun, mut hash) = begun(&part).map_err(|error| fail(&error))?;
        if begun > target.length {
            durable::remove(&part).map_err(|error| fail(&error))?;
            (begun, hash) = (0, Sha256::new());
        }
        let mut came = 0;
        if begun < target.length {
            let body = open(transport, name, target, begun).await?;
            if body.from != begun {
                durable::remove(&part).map_err(|error| fail(&error))?;
                (begun, hash) = (0, Sha256::new());
            }
            let mut file = durable::append(&part).map_err(|error| fail(&error))?;
            let mut body = Bounded::new(body, name, transport.pace(), target.length);
            while let Some(piece) = body.next().await? {
                durable::write(&mut file, &piece).map_err(|error| fail(&error))?;
                hash.update(&piece);
                came += piece.len() as u64;
            }
        }
        let have = begun + came;
        if have < target.length {
            return Err(Refusal::new(
                Kind::Content,
                name,
                format!(
                    "it ended after {have} bytes, and a length of {} was signed",
                    target.length
                ),
                "the next poll goes on from there; if it ends there again, publish the file again",
            ));
        }
        let found = <[u8; 32]>::from(hash.finalize());
        if found != target.digest {
            durable::remove(&part).map_err(|error| fail(&error))?;
            return Err(Refusal::new(
                Kind::Content,
                name,
                format!(
                    "its digest is sha256:{}, and sha256:{} was signed",
                    hex(&found),
                    hex(&target.digest)
                ),
                "it was changed on the way or on the server, and is not used: publish the file again",
            ));
        }
        let file = fs::File::open(&part).map_err(|error| fail(&error))?;
        durable::sync(&file).map_err(|error| fail(&error))?;
        durable::rename(&part, &path).map_err(|error| fail(&error))?;
        Ok(came)
    }

    /// Removes what is not among these.
    pub(crate) fn sweep(&self, keep: &BTreeSet<[u8; 32]>) -> io::Result<()> {
        let keep: BTreeSet<String> = keep.iter().map(|digest| hex(digest)).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            if !keep.contains(&*stem) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Whether so many bytes more are within the folder's bound.
    ///
    /// # Errors
    /// They are not, or the folder cannot be read.
    pub(crate) fn check_room(&self, length: u64) -> io::Result<()> {
        let mut bytes = length;
        for entry in fs::read_dir(&self.dir)? {
            bytes += entry?.metadata()?.len();
        }
        if bytes > limits::DEPLOY_KEPT_BYTES {
            return Err(io::Error::other(format!(
                "the folder would hold {bytes} bytes, above its bound of {}: the channel names too many or too large modules",
                limits::DEPLOY_KEPT_BYTES
            )));
        }
        Ok(())
    }

    fn path(&self, digest: &[u8; 32]) -> PathBuf {
        self.dir.join(hex(digest))
    }
}

/// What of a file came before, and its hash so far.
fn begun(part: &Path) -> io::Result<(u64, Sha256)> {
    let mut hash = Sha256::new();
    let mut file = match fs::File::open(part) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((0, hash)),
        Err(error) => return Err(error),
    };
    let (mut length, mut piece) = (0, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut piece)?;
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
            return Ok((length, hash));
        };
        hash.update(read);
        length += read.len() as u64;
    }
}

/// Begins to fetch a target. Clients disagree about where a target in a folder lies when file names carry digests: the
/// specification and python-tuf say `targets/a/<digest>.b`, tough says `targets/<digest>.a/b`. Plain names come last.
async fn open(
    transport: &dyn Transport,
    name: &str,
    target: &File,
    from: u64,
) -> Result<crate::transport::Body, Refusal> {
    let digest = hex(&target.digest);
    let within = match name.rsplit_once('/') {
        Some((folder, file)) => format!("targets/{folder}/{digest}.{file}"),
        None => format!("targets/{digest}.{name}"),
    };
    let before = format!("targets/{digest}.{name}");
    let plain = format!("targets/{name}");
    for path in [&within, &before, &plain] {
        let request = Request {
            from,
            ..Request::whole(path)
        };
        match transport.open(request).await? {
            Answer::Body(body) => return Ok(body),
            Answer::Missing | Answer::Unchanged => {}
        }
    }
    Err(FetchError::new(
        &within,
        "there is no such file",
        "the publisher signed it, and the server does not have it: copy the whole repository there",
    )
    .into())
}

fn local(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        Kind::Local,
        &path.display().to_string(),
        error.to_string(),
        "look at the disk; the next poll goes on from here",
    )
}
