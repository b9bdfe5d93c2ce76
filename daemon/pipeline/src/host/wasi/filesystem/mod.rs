//! `wasi:filesystem`: the directories that the site gives, read-only. Where it gives none, what is linked against the
//! interface runs, and finds nothing to open.
//!
//! A call reads and lists; whatever would change something is refused as read-only. Reads are of files that the kernel has
//! or fetches from a local disk: they are bounded by bytes, and their CPU time counts as the call's.

mod beneath;
mod types;

use std::sync::Arc;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource};

use self::beneath::{Entry, Open};
pub(super) use self::types::ErrorCode;
use self::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, MetadataHash,
    NewTimestamp, OpenFlags, PathFlags,
};
use super::super::{Call, Violation};
use super::io::{InputStream, IoError, OutputStream, resource};

type Cx<'a> = StoreContextMut<'a, Call>;
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// Files and directories that a guest may have open at a time; a further one ends it.
const OPEN: usize = 32;
/// Bytes that one read gives; a guest that wants more reads again.
const READ_BYTES: u64 = 64 * 1024;
/// Bytes that one call reads of files; more end it.
const CALL_BYTES: u64 = 16 * 1024 * 1024;

/// What a call has open, and has read.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// One is cloned for each.
    open: Arc<()>,
    read: u64,
}

/// `descriptor`
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    open: Open,
    /// Counts it among the open ones, also while only a stream is left of it.
    _held: Arc<()>,
}

/// `directory-entry-stream`: what is left of it, the next one last.
#[derive(Debug)]
struct Entries(Vec<Entry>);

impl Descriptor {
    /// The next bytes; none at the end.
    pub(super) fn read(
        &self,
        files: &mut Files,
        length: u64,
        place: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, ErrorCode>> {
        let length = usize::try_from(length.min(READ_BYTES)).unwrap_or(0);
        let read = self.open.read(length, place).map_err(ErrorCode::from);
        files.read += read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if files.read > CALL_BYTES {
            return violation(format!(
                "it reads more than {CALL_BYTES} bytes of files in one call"
            ));
        }
        Ok(read)
    }
}

fn violation<T>(what: String) -> wasmtime::Result<T> {
    Err(wasmtime::Error::new(Violation(what)))
}

/// Why a directory of the site cannot be given now; `None` where it can.
pub(crate) fn problem(root: &std::path::Path, name: &str) -> Option<String> {
    let error = Open::root(root, name).err()?;
    let path = root.join(name);
    let hint = match error {
        Errno::NOSYS => "this kernel is older than Linux 5.6, which modules need for directories",
        Errno::XDEV => "it leads out of `policy.directory-root`: put the directory itself there",
        _ => "make it, readable for the gateway's user",
    };
    Some(format!(
        "{} cannot be opened: {error}; {hint}",
        path.display()
    ))
}

pub(super) fn link_preopens(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-directories", |mut cx: Cx<'_>, (): ()| {
        let context = Arc::clone(&cx.data().context);
        let mut directories = Vec::new();
        for (name, root) in &context.directories {
            let Ok(open) = Open::root(root, name) else {
                let why = problem(root, name).unwrap_or_else(|| "it comes and goes".to_owned());
                return violation(format!("directory `{name}`: {why}"));
            };
            directories.push((descriptor(&mut cx, open)?, format!("/{name}")));
        }
        Ok((directories,))
    })
}

fn descriptor(cx: &mut Cx<'_>, open: Open) -> wasmtime::Result<Resource<Descriptor>> {
    let wasi = &mut cx.data_mut().wasi;
    let _held = Arc::clone(&wasi.files.open);
    // It and the call itself are no open file.
    if Arc::strong_count(&_held) > OPEN + 1 {
        return violation(format!("it has more than {OPEN} files open at once"));
    }
    Ok(wasi.table.push(Descriptor { open, _held })?)
}

/// The open file of a handle.
fn of(cx: &Cx<'_>, handle: &Resource<Descriptor>) -> wasmtime::Result<Open> {
    Ok(cx.data().wasi.table.get(handle)?.open.clone())
}

pub(super) fn link_types(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<Descriptor>(instance, "descriptor")?;
    resource::<Entries>(instance, "directory-entry-stream")?;
    link_reading(instance)?;
    link_looking(instance)?;
    link_writing(instance)?;
    instance.func_wrap(
        "filesystem-error-code",
        |cx: Cx<'_>, (error,): (Resource<IoError>,)| {
            Ok((Some(cx.data().wasi.table.get(&error)?.0),))
        },
    )
}

fn link_reading(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[method]descriptor.open-at",
        |mut cx: Cx<'_>,
         (at, path_flags, path, open_flags, flags): (
            Resource<Descriptor>,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )|
         -> Answer<Resource<Descriptor>> {
            let changes = DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY;
            let makes = OpenFlags::CREATE | OpenFlags::TRUNCATE;
            if flags & changes != DescriptorFlags::default()
                || open_flags & makes != OpenFlags::default()
            {
                return Ok((Err(ErrorCode::ReadOnly),));
            }
            let directory = open_flags & OpenFlags::DIRECTORY != OpenFlags::default();
            let opened = of(&cx, &at)?.at(&path, path_flags.follows(), directory);
            Ok((match opened {
                Ok(open) => Ok(descriptor(&mut cx, open)?),
                Err(error) => Err(error.into()),
            },))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.read",
        |mut cx: Cx<'_>,
         (file, length, place): (Resource<Descriptor>, u64, u64)|
         -> Answer<(Vec<u8>, bool)> {
            let wasi = &mut cx.data_mut().wasi;
            let read = wasi
                .table
                .get(&file)?
                .read(&mut wasi.files, length, place)?;
            Ok((read.map(|bytes| {
                let end = bytes.is_empty() && length > 0;
                (bytes, end)
            }),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut cx: Cx<'_>,
         (file, place): (Resource<Descriptor>, u64)|
         -> Answer<Resource<InputStream>> {
            let table = &mut cx.data_mut().wasi.table;
            let file = table.get(&file)?.clone();
            if file.open.is_directory() {
                return Ok((Err(ErrorCode::IsDirectory),));
            }
            Ok((Ok(table.push(InputStream::File { file, place })?),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.read-directory",
        |mut cx: Cx<'_>, (directory,): (Resource<Descriptor>,)| -> Answer<Resource<Entries>> {
            let entries = of(&cx, &directory)?.entries();
            Ok((match entries {
                Ok(mut entries) => {
                    entries.reverse();
                    Ok(cx.data_mut().wasi.table.push(Entries(entries))?)
                }
                Err(error) => Err(error.into()),
            },))
        },
    )?;
    instance.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        |mut cx: Cx<'_>, (entries,): (Resource<Entries>,)| -> Answer<Option<DirectoryEntry>> {
            let entry = cx.data_mut().wasi.table.get_mut(&entries)?.0.pop();
            Ok((Ok(entry.map(|Entry { name, kind }| DirectoryEntry {
                kind: kind.into(),
                name,
            })),))
        },
    )
}

fn link_looking(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[method]descriptor.advise",
        |_: Cx<'_>, _: (Resource<Descriptor>, u64, u64, Advice)| -> Answer<()> { Ok((Ok(()),)) },
    )?;
    for name in ["sync", "sync-data"] {
        instance.func_wrap(
            &format!("[method]descriptor.{name}"),
            |_: Cx<'_>, _: (Resource<Descriptor>,)| -> Answer<()> { Ok((Ok(()),)) },
        )?;
    }
    instance.func_wrap(
        "[method]descriptor.get-flags",
        |_: Cx<'_>, _: (Resource<Descriptor>,)| -> Answer<DescriptorFlags> {
            Ok((Ok(DescriptorFlags::READ),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.get-type",
        |cx: Cx<'_>, (file,): (Resource<Descriptor>,)| -> Answer<DescriptorType> {
            Ok((Ok(match of(&cx, &file)?.is_directory() {
                true => DescriptorType::Directory,
                false => DescriptorType::RegularFile,
            }),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.stat",
        |cx: Cx<'_>, (file,): (Resource<Descriptor>,)| -> Answer<DescriptorStat> {
            let stat = of(&cx, &file)?.stat();
            Ok((stat.map(DescriptorStat::from).map_err(ErrorCode::from),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.stat-at",
        |cx: Cx<'_>,
         (at, flags, path): (Resource<Descriptor>, PathFlags, String)|
         -> Answer<DescriptorStat> {
            let stat = of(&cx, &at)?.stat_at(&path, flags.follows());
            Ok((stat.map(DescriptorStat::from).map_err(ErrorCode::from),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.readlink-at",
        |cx: Cx<'_>, (at, path): (Resource<Descriptor>, String)| -> Answer<String> {
            Ok((of(&cx, &at)?.link_at(&path).map_err(ErrorCode::from),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.is-same-object",
        |cx: Cx<'_>, (one, other): (Resource<Descriptor>, Resource<Descriptor>)| {
            let (one, other) = (of(&cx, &one)?.stat(), of(&cx, &other)?.stat());
            let place = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
            Ok((one.is_ok() && one.map(place) == other.map(place),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.metadata-hash",
        |cx: Cx<'_>, (file,): (Resource<Descriptor>,)| -> Answer<MetadataHash> {
            Ok((hash(of(&cx, &file)?.stat()),))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.metadata-hash-at",
        |cx: Cx<'_>,
         (at, flags, path): (Resource<Descriptor>, PathFlags, String)|
         -> Answer<MetadataHash> {
            Ok((hash(of(&cx, &at)?.stat_at(&path, flags.follows())),))
        },
    )
}

/// Which file it is: a libc makes an inode number of it.
fn hash(stat: rustix::io::Result<rustix::fs::Stat>) -> Result<MetadataHash, ErrorCode> {
    let stat = stat?;
    let hash = Sha256::new()
        .chain_update(stat.st_dev.to_le_bytes())
        .chain_update(stat.st_ino.to_le_bytes())
        .finalize();
    let number = |from: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[from..from + 8]);
        u64::from_le_bytes(bytes)
    };
    Ok(MetadataHash {
        lower: number(0),
        upper: number(8),
    })
}

/// Whatever would change something.
fn link_writing(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    type D = Resource<Descriptor>;
    const NO: ErrorCode = ErrorCode::ReadOnly;
    let name = |name: &str| format!("[method]descriptor.{name}");
    instance.func_wrap(
        &name("write-via-stream"),
        |_: Cx<'_>, _: (D, u64)| -> Answer<Resource<OutputStream>> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(
        &name("append-via-stream"),
        |_: Cx<'_>, _: (D,)| -> Answer<Resource<OutputStream>> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(
        &name("write"),
        |_: Cx<'_>, _: (D, Vec<u8>, u64)| -> Answer<u64> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(&name("set-size"), |_: Cx<'_>, _: (D, u64)| -> Answer<()> {
        Ok((Err(NO),))
    })?;
    instance.func_wrap(
        &name("set-times"),
        |_: Cx<'_>, _: (D, NewTimestamp, NewTimestamp)| -> Answer<()> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(
        &name("set-times-at"),
        |_: Cx<'_>, _: (D, PathFlags, String, NewTimestamp, NewTimestamp)| -> Answer<()> {
            Ok((Err(NO),))
        },
    )?;
    for method in [
        "create-directory-at",
        "remove-directory-at",
        "unlink-file-at",
    ] {
        instance.func_wrap(&name(method), |_: Cx<'_>, _: (D, String)| -> Answer<()> {
            Ok((Err(NO),))
        })?;
    }
    instance.func_wrap(
        &name("link-at"),
        |_: Cx<'_>, _: (D, PathFlags, String, D, String)| -> Answer<()> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(
        &name("rename-at"),
        |_: Cx<'_>, _: (D, String, D, String)| -> Answer<()> { Ok((Err(NO),)) },
    )?;
    instance.func_wrap(
        &name("symlink-at"),
        |_: Cx<'_>, _: (D, String, String)| -> Answer<()> { Ok((Err(NO),)) },
    )
}
