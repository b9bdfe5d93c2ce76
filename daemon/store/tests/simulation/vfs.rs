//! The disk as SQLite's file system. It becomes the default one of this process, so that the store is driven as it is.
#![expect(
    unsafe_code,
    reason = "SQLite takes a file system as a table of C functions"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "SQLite's sizes and codes are C integers; files of the simulation are small"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi;

use crate::disk::{Disk, Fault};

/// Disks by directory.
static DISKS: LazyLock<Mutex<BTreeMap<String, Arc<Mutex<Drive>>>>> = LazyLock::new(Mutex::default);

/// A disk, and what only lives as long as the processes that use it.
#[derive(Debug, Default)]
pub(crate) struct Drive {
    pub(crate) disk: Disk,
    shared: BTreeMap<u64, Arc<Shared>>,
    next_handle: u64,
}

/// Makes the files under `directory` those of `drive`.
pub(crate) fn mount(directory: &str, drive: &Arc<Mutex<Drive>>) {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(register);
    disks().insert(directory.to_owned(), Arc::clone(drive));
}

pub(crate) fn unmount(directory: &str) {
    disks().remove(directory);
}

/// The drive, whatever a panicking test left of the lock.
pub(crate) fn locked(drive: &Mutex<Drive>) -> MutexGuard<'_, Drive> {
    drive.lock().unwrap_or_else(PoisonError::into_inner)
}

fn disks() -> MutexGuard<'static, BTreeMap<String, Arc<Mutex<Drive>>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn drive_of(name: &str) -> Option<Arc<Mutex<Drive>>> {
    let (directory, _) = name.rsplit_once('/')?;
    disks().get(directory).map(Arc::clone)
}

/// An open file, as SQLite allocates it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

struct Handle {
    drive: Arc<Mutex<Drive>>,
    number: u64,
    file: u64,
    boot: u64,
    name: Option<String>,
    delete_on_close: bool,
    shared: Option<Arc<Shared>>,
}

impl Handle {
    /// Runs on the disk, unless it was started anew meanwhile.
    fn on<T>(&self, run: impl FnOnce(&mut Disk) -> Result<T, Fault>) -> Result<T, Fault> {
        let disk = &mut locked(&self.drive).disk;
        if disk.boot() != self.boot || disk.ended().is_some() {
            return Err(Fault::Io);
        }
        run(disk)
    }
}

/// Shared memory of a database: the index of its log.
#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Regions>,
}

#[derive(Debug, Default)]
struct Regions {
    /// Zeroed, and at one place as long as anybody has them mapped.
    memory: Vec<Memory>,
    /// Per slot: who holds it, and whether alone.
    slots: [BTreeMap<u64, bool>; ffi::SQLITE_SHM_NLOCK as usize],
    mapped: usize,
}

/// Memory that only SQLite reads and writes.
#[derive(Debug)]
struct Memory {
    start: *mut u64,
    words: usize,
}

// SAFETY: it is nothing but an allocation; who reads and writes it agrees by the locks of the slots.
unsafe impl Send for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        let memory = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let words = memory.len();
        Self {
            start: Box::into_raw(memory).cast(),
            words,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` took it out of a box of that length, and nobody has it mapped any more.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(self.start, self.words)) });
    }
}

impl Shared {
    fn regions(&self) -> MutexGuard<'_, Regions> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn register() {
    let vfs = Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<File>() as c_int,
        mxPathname: 512,
        pNext: ptr::null_mut(),
        zName: c"simulated".as_ptr(),
        pAppData: ptr::null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: None,
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    });
    // SAFETY: the table is complete for its version, and lives as long as the process.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(vfs), 1) };
    assert_eq!(code, ffi::SQLITE_OK);
}

/// A name that SQLite hands in; `None` for a file without one.
///
/// # Safety
/// It is null or a string that ends with a zero byte.
unsafe fn text<'a>(name: *const c_char) -> Option<&'a str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by the caller.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

/// The handle of a file that `open` opened.
///
/// # Safety
/// SQLite hands in only files that `open` succeeded for, from one thread at a time, and none after `close`.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: by the caller.
    unsafe { &mut *(*file.cast::<File>()).handle }
}

fn code(result: Result<(), Fault>, io: c_int) -> c_int {
    match result {
        Ok(()) => ffi::SQLITE_OK,
        Err(Fault::Io | Fault::NotFound) => io,
        Err(Fault::Full) => ffi::SQLITE_FULL,
    }
}

fn length(offset: i64) -> usize {
    usize::try_from(offset).expect("SQLite's offsets are not negative")
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let file = file.cast::<File>();
    // SAFETY: SQLite allocated `szOsFile` bytes. Without methods it does not close what was not opened.
    unsafe { (*file).base.pMethods = ptr::null() };
    // SAFETY: the name is SQLite's.
    let name = unsafe { text(name) };
    let (drive, private) = match name {
        Some(name) => match drive_of(name) {
            Some(drive) => (drive, false),
            None => return ffi::SQLITE_CANTOPEN,
        },
        // A temporary file: on a disk of its own.
        None => (Arc::default(), true),
    };
    let (number, opened, boot) = {
        let drive = &mut *locked(&drive);
        drive.next_handle += 1;
        let create = private || flags & ffi::SQLITE_OPEN_CREATE != 0;
        let opened = drive.disk.open(name, create);
        (drive.next_handle, opened, drive.disk.boot())
    };
    let Ok(opened) = opened else {
        return ffi::SQLITE_CANTOPEN;
    };
    let handle = Box::new(Handle {
        drive,
        number,
        file: opened,
        boot,
        name: name.map(str::to_owned),
        delete_on_close: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
        shared: None,
    });
    // SAFETY: as above; `out_flags` is null or SQLite's.
    unsafe {
        (*file).handle = Box::into_raw(handle);
        (*file).base.pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `open` made it, and SQLite hands it in for the last time.
    let mut handle = unsafe { Box::from_raw((*file.cast::<File>()).handle) };
    release_shared(&mut handle);
    let closed = handle.on(|disk| {
        if let Ok(locks) = disk.locks(handle.file) {
            locks.remove(&handle.number);
        }
        match &handle.name {
            Some(name) if handle.delete_on_close => disk.delete(name, false),
            Some(_) | None => Ok(()),
        }
    });
    code(closed.or(Ok(())), ffi::SQLITE_IOERR_CLOSE)
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: SQLite's file and SQLite's buffer of that length.
    let (handle, into) = unsafe {
        let into = std::slice::from_raw_parts_mut(into.cast::<u8>(), length(amount.into()));
        (handle(file), into)
    };
    match handle.on(|disk| disk.read(handle.file, length(offset), into)) {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: SQLite's file and SQLite's buffer of that length.
    let (handle, from) = unsafe {
        let from = std::slice::from_raw_parts(from.cast::<u8>(), length(amount.into()));
        (handle(file), from)
    };
    let written = handle.on(|disk| disk.write(handle.file, length(offset), from));
    code(written, ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    let truncated = handle.on(|disk| disk.truncate(handle.file, length(size)));
    code(truncated, ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    let synced = handle.on(|disk| disk.sync(handle.file));
    code(synced, ffi::SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    match handle.on(|disk| disk.size(handle.file)) {
        Ok(found) => {
            // SAFETY: SQLite's integer.
            unsafe { *size = found as i64 };
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_FSTAT,
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    let number = handle.number;
    let locked = handle.on(|disk| {
        let locks = disk.locks(handle.file)?;
        let mine = locks.get(&number).copied().unwrap_or(0);
        let others = locks.iter().filter(|(other, _)| **other != number);
        let others = others.map(|(_, level)| *level).max().unwrap_or(0);
        if mine >= level {
            return Ok(true);
        }
        let limit = match level {
            ffi::SQLITE_LOCK_SHARED => ffi::SQLITE_LOCK_RESERVED,
            ffi::SQLITE_LOCK_RESERVED => ffi::SQLITE_LOCK_SHARED,
            _ => ffi::SQLITE_LOCK_NONE,
        };
        if others <= limit {
            locks.insert(number, level);
            return Ok(true);
        }
        if level == ffi::SQLITE_LOCK_EXCLUSIVE && others == ffi::SQLITE_LOCK_SHARED {
            locks.insert(number, ffi::SQLITE_LOCK_PENDING);
        }
        Ok(false)
    });
    match locked {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_BUSY,
        Err(_) => ffi::SQLITE_IOERR_LOCK,
    }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    let unlocked = handle.on(|disk| {
        let locks = disk.locks(handle.file)?;
        if level == ffi::SQLITE_LOCK_NONE {
            locks.remove(&handle.number);
        } else {
            locks.insert(handle.number, level);
        }
        Ok(())
    });
    code(unlocked, ffi::SQLITE_IOERR_UNLOCK)
}

unsafe extern "C" fn check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    reserved: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    let found = handle.on(|disk| {
        let mut locks = disk.locks(handle.file)?.values();
        Ok(locks.any(|level| *level >= ffi::SQLITE_LOCK_RESERVED))
    });
    // SAFETY: SQLite's integer.
    unsafe { *reserved = c_int::from(found == Ok(true)) };
    code(found.map(drop), ffi::SQLITE_IOERR_CHECKRESERVEDLOCK)
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    // As SQLite's own file system claims on Linux.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    into: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    if handle.on(|_| Ok(())).is_err() {
        return ffi::SQLITE_IOERR_SHMMAP;
    }
    let shared = match &handle.shared {
        Some(shared) => Arc::clone(shared),
        None => {
            let shared = {
                let drive = &mut *locked(&handle.drive);
                Arc::clone(drive.shared.entry(handle.file).or_default())
            };
            shared.regions().mapped += 1;
            handle.shared = Some(Arc::clone(&shared));
            shared
        }
    };
    let mut regions = shared.regions();
    let region = length(region.into());
    while regions.memory.len() <= region && extend != 0 {
        regions.memory.push(Memory::new(length(size.into())));
    }
    let start = regions
        .memory
        .get(region)
        .map_or(ptr::null_mut(), |memory| memory.start);
    // SAFETY: SQLite's pointer.
    unsafe { *into = start.cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    slots: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: SQLite's file.
    let handle = unsafe { handle(file) };
    if handle.on(|_| Ok(())).is_err() {
        return ffi::SQLITE_IOERR_SHMLOCK;
    }
    let Some(shared) = &handle.shared else {
        return ffi::SQLITE_IOERR_SHMLOCK;
    };
    let regions = &mut *shared.regions();
    let slots = &mut regions.slots[length(offset.into())..length((offset + slots).into())];
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        for slot in slots {
            slot.remove(&handle.number);
        }
        return ffi::SQLITE_OK;
    }
    let alone = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    let taken = slots.iter().any(|slot| {
        let mut others = slot.iter().filter(|(other, _)| **other != handle.number);
        others.any(|(_, exclusive)| alone || *exclusive)
    });
    if taken {
        return ffi::SQLITE_BUSY;
    }
    for slot in slots {
        slot.insert(handle.number, alone);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite's file.
    release_shared(unsafe { handle(file) });
    ffi::SQLITE_OK
}

/// The last one takes the memory with it: whoever comes next reads the log.
fn release_shared(handle: &mut Handle) {
    let Some(shared) = handle.shared.take() else {
        return;
    };
    let mut regions = shared.regions();
    for slot in &mut regions.slots {
        slot.remove(&handle.number);
    }
    regions.mapped -= 1;
    if regions.mapped == 0 {
        let drive = &mut *locked(&handle.drive);
        let current = drive.shared.get(&handle.file);
        if current.is_some_and(|current| Arc::ptr_eq(current, &shared)) {
            drive.shared.remove(&handle.file);
        }
    }
}

impl Drive {
    /// The next boot or process: see [`Disk::start`]. Dead handles keep their shared memory until they are closed.
    pub(crate) fn start(&mut self, random: &mut crate::random::Random) {
        self.shared.clear();
        self.disk.start(random);
    }
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite's name.
    let Some(name) = (unsafe { text(name) }) else {
        return ffi::SQLITE_IOERR_DELETE;
    };
    let Some(drive) = drive_of(name) else {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    };
    let deleted = locked(&drive).disk.delete(name, sync_directory != 0);
    match deleted {
        Err(Fault::NotFound) => ffi::SQLITE_IOERR_DELETE_NOENT,
        deleted => code(deleted, ffi::SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's name.
    let name = unsafe { text(name) };
    let there = name.is_some_and(|name| {
        drive_of(name).is_some_and(|drive| {
            let disk = &mut locked(&drive).disk;
            let file = disk.find(name);
            // As SQLite's own file system: an empty file does not exist.
            file.is_some_and(|file| flags != ffi::SQLITE_ACCESS_EXISTS || disk.size(file) != Ok(0))
        })
    });
    // SAFETY: SQLite's integer.
    unsafe { *found = c_int::from(there) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    into: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's name and SQLite's buffer of `room` bytes.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > length(room.into()) {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(name.as_ptr().cast(), into, name.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(
    _: *mut ffi::sqlite3_vfs,
    bytes: c_int,
    into: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's buffer of that length. It seeds the salts of logs, which need not be the same in every run.
    unsafe { ptr::write_bytes(into, 0x5a, length(bytes.into())) };
    bytes
}

/// Nobody else runs: waiting changes nothing.
unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, into: *mut i64) -> c_int {
    // SAFETY: SQLite's integer. Julian milliseconds; the store asks SQLite for no time.
    unsafe { *into = 210_866_760_000_000 };
    ffi::SQLITE_OK
}
