//! Files below a directory, read-only: nothing is opened that lies outside of it, whatever a path or a link says.
//!
//! The kernel resolves each path (`openat2` with `RESOLVE_BENEATH`, Linux 5.6): absolute paths, `..` above the directory and
//! links that lead out are refused there, in one step that nobody can come between.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{self, Errno};

/// Names that one directory may have; a listing of more is refused.
const ENTRIES: usize = 4096;
/// How often an open is tried again that the kernel gave up because something was renamed meanwhile.
const RACES: u32 = 8;
/// Bytes that a symbolic link may have, as in Linux.
const LINK_BYTES: usize = 4096;

/// An open file or directory. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Open {
    file: Arc<File>,
    directory: bool,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: FileType,
}

impl Open {
    /// The directory of this name below a root. The root itself is the site's word: links to it are followed.
    pub(super) fn root(root: &Path, name: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, root, flags, Mode::empty())?;
        open(&root, name, true, true)
    }

    /// What a path below a directory names: a regular file or a directory. Devices, pipes and sockets are not opened.
    pub(super) fn at(&self, path: &str, follow: bool, directory: bool) -> io::Result<Self> {
        open(&self.directory()?, path, follow, directory)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.directory
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        fs::fstat(&*self.file)
    }

    /// About a path below a directory, whatever it is.
    pub(super) fn stat_at(&self, path: &str, follow: bool) -> io::Result<Stat> {
        fs::fstat(named(&self.directory()?, path, follow)?)
    }

    /// Where a link below a directory leads.
    pub(super) fn link_at(&self, path: &str) -> io::Result<String> {
        let link = named(&self.directory()?, path, false)?;
        if FileType::from_raw_mode(fs::fstat(&link)?.st_mode) != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = fs::readlinkat(&link, "", Vec::with_capacity(LINK_BYTES))?;
        let target = target.into_string().map_err(|_| Errno::ILSEQ)?;
        // The names of the machine are none of the guest's business.
        match target.starts_with('/') {
            true => Err(Errno::PERM),
            false => Ok(target),
        }
    }

    /// At most `length` bytes from a place on; none at the end.
    pub(super) fn read(&self, length: usize, place: u64) -> io::Result<Vec<u8>> {
        if self.directory {
            return Err(Errno::ISDIR);
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, place);
        let read = read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Its names in their order, but for `.` and `..`.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = resolve(&self.directory()?, ".", flags)?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(own)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
            if matches!(name, "." | "..") {
                continue;
            }
            if entries.len() >= ENTRIES {
                return Err(Errno::OVERFLOW);
            }
            entries.push(Entry {
                name: name.to_owned(),
                kind: entry.file_type(),
            });
        }
        // A file system's own order may differ from one machine to the next.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn directory(&self) -> io::Result<impl AsFd + '_> {
        match self.directory {
            true => Ok(&*self.file),
            false => Err(Errno::NOTDIR),
        }
    }
}

fn open(at: &impl AsFd, path: &str, follow: bool, directory: bool) -> io::Result<Open> {
    // Looked at before it is opened: opening a device does things, and opening a pipe waits.
    let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
    let is_directory = match kind(&fs::fstat(named(at, path, follow)?)?) {
        FileType::Directory => true,
        FileType::RegularFile if directory => return Err(Errno::NOTDIR),
        FileType::RegularFile => false,
        FileType::Symlink => return Err(Errno::LOOP),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(Errno::PERM),
    };
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    flags.set(OFlags::DIRECTORY, is_directory);
    let file = resolve(at, path, flags)?;
    // Replaced in between.
    match (kind(&fs::fstat(&file)?), is_directory) {
        (FileType::Directory, true) | (FileType::RegularFile, false) => Ok(Open {
            file: Arc::new(File::from(file)),
            directory: is_directory,
        }),
        _ => Err(Errno::PERM),
    }
}

/// What a path names, not opened.
fn named(at: &impl AsFd, path: &str, follow: bool) -> io::Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    resolve(at, path, flags)
}

fn resolve(at: &impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACES {
        match fs::openat2(at, path, flags, Mode::empty(), beneath) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs as files;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with `given` in it, and a file beside that.
    fn site() -> (tempfile::TempDir, Open) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        files::create_dir_all(root.join("given/sub")).unwrap();
        files::write(root.join("secret"), "secret").unwrap();
        files::write(root.join("given/table"), "1,2\n3,4\n").unwrap();
        files::write(root.join("given/sub/deep"), "deep").unwrap();
        symlink("sub/deep", root.join("given/inside")).unwrap();
        symlink("../secret", root.join("given/outside")).unwrap();
        symlink(root.join("given/table"), root.join("given/absolute")).unwrap();
        symlink("/proc/self/root", root.join("given/magic")).unwrap();
        symlink("../../secret", root.join("given/sub/outside")).unwrap();
        let opened = Open::root(root, "given").unwrap();
        (dir, opened)
    }

    #[test]
    fn nothing_outside_is_opened_whatever_the_path_or_a_link_says() {
        let (dir, given) = site();
        let absolute = dir.path().join("given/table");
        for (path, expect) in [
            ("table", Ok("1,2\n3,4\n")),
            ("sub/deep", Ok("deep")),
            ("sub/../table", Ok("1,2\n3,4\n")),
            ("inside", Ok("deep")),
            ("../secret", Err(Errno::XDEV)),
            ("sub/../../secret", Err(Errno::XDEV)),
            ("../given/table", Err(Errno::XDEV)),
            ("outside", Err(Errno::XDEV)),
            ("sub/outside", Err(Errno::XDEV)),
            ("absolute", Err(Errno::XDEV)),
            ("magic/etc/passwd", Err(Errno::XDEV)),
            (absolute.to_str().unwrap(), Err(Errno::XDEV)),
            ("/etc/passwd", Err(Errno::XDEV)),
            ("", Err(Errno::NOENT)),
            ("nothing", Err(Errno::NOENT)),
            ("table/x", Err(Errno::NOTDIR)),
        ] {
            let read = given
                .at(path, true, false)
                .and_then(|file| file.read(99, 0));
            let read = read.map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(read, expect.map(str::to_owned), "{path}");
            assert_eq!(given.stat_at(path, true).err(), expect.err(), "{path}");
        }
        let unfollowed = given.at("inside", false, false).err();
        assert_eq!(unfollowed, Some(Errno::LOOP));
        assert_eq!(given.link_at("inside").unwrap(), "sub/deep");
        assert_eq!(given.link_at("absolute").err(), Some(Errno::PERM));
        assert_eq!(given.link_at("../secret").err(), Some(Errno::XDEV));
        assert_eq!(given.link_at("table").err(), Some(Errno::INVAL));

        // The name itself leads nowhere else either.
        symlink("/etc", dir.path().join("elsewhere")).unwrap();
        for (name, expect) in [("elsewhere", Errno::XDEV), ("secret", Errno::NOTDIR)] {
            let opened = Open::root(dir.path(), name).err();
            assert_eq!(opened, Some(expect), "{name}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened_and_names_are_told_in_order() {
        let (dir, given) = site();
        let pipe = dir.path().join("given/pipe");
        fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        // Nobody writes into it: were it opened to be read, this would wait.
        assert_eq!(given.at("pipe", true, false).err(), Some(Errno::PERM));

        let entries = given.entries().unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let all = [
            "absolute", "inside", "magic", "outside", "pipe", "sub", "table",
        ];
        assert_eq!(names, all);
        assert_eq!(entries[5].kind, FileType::Directory);
        let table = given.at("table", true, false).unwrap();
        assert_eq!(table.entries().err(), Some(Errno::NOTDIR));
        assert_eq!(given.at("table", true, true).err(), Some(Errno::NOTDIR));
        assert_eq!(given.read(9, 0).err(), Some(Errno::ISDIR));
        assert_eq!(table.read(3, 6).unwrap(), b"4\n");
        assert!(table.read(3, 8).unwrap().is_empty());

        let sub = given.at("sub", true, true).unwrap();
        for n in 0..ENTRIES {
            files::write(dir.path().join(format!("given/sub/{n}")), "").unwrap();
        }
        assert_eq!(sub.entries().err(), Some(Errno::OVERFLOW));
    }
}
