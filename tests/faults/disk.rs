//! A disk of the case's own: ext4 in a file, which can lose power, fill up, fail, and turn read-only. Needs root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Site, wait_for};

/// A mounted loop device.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    /// Goes after it is unmounted.
    _site: Site,
}

impl Disk {
    pub(crate) fn new(megabytes: u64) -> Self {
        let site = Site::new();
        let disk = Self {
            image: site.path("disk.img"),
            mount: site.path("disk"),
            _site: site,
        };
        let image = File::create(&disk.image).unwrap();
        image.set_len(megabytes * 1024 * 1024).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&disk.image)]);
        fs::create_dir_all(&disk.mount).unwrap();
        disk.mount();
        disk
    }

    /// Where a state directory can be.
    pub(crate) fn path(&self) -> PathBuf {
        self.mount.join("state")
    }

    /// Nothing that is not on the disk by now will ever be. Whoever uses the disk has to be stopped before.
    pub(crate) fn cut(&self) {
        shutdown(&File::open(&self.mount).unwrap());
    }

    /// The power comes back.
    pub(crate) fn restore(&self) {
        self.unmount();
        self.mount();
    }

    /// The file system notices an error and turns read-only, as ext4 does by default on Debian.
    pub(crate) fn fail(&self) {
        let device = self.device();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }

    /// Repairs it after [`Disk::fail`]. Nobody may use it.
    pub(crate) fn repair(&self) {
        self.unmount();
        // 1: errors were corrected.
        let status = Command::new("e2fsck")
            .env("PATH", path())
            .args(["-p", "-f"])
            .arg(&self.image)
            .output();
        assert!(status.unwrap().status.code().unwrap() <= 1);
        self.mount();
    }

    /// Fills it but for so many bytes, by a file in the way.
    pub(crate) fn fill(&self, leave: u64) {
        let file = File::create(self.mount.join("ballast")).unwrap();
        // What is free cannot be taken all at once: the daemon writes meanwhile, and blocks have their own accounts.
        let (mut taken, mut piece) = (0, 1024 * 1024);
        while piece >= 4096 {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, taken, piece) {
                Ok(()) => taken += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => panic!("cannot fill the disk: {error}"),
            }
        }
        file.set_len(taken.saturating_sub(leave)).unwrap();
    }

    /// Takes the file away again.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.mount.join("ballast")).unwrap();
    }

    fn mount(&self) {
        run(
            "mount",
            &[
                "-o",
                "loop,noatime,errors=remount-ro",
                &text(&self.image),
                &text(&self.mount),
            ],
        );
    }

    fn unmount(&self) {
        // A child of a killed daemon can hold it for a moment.
        wait_for("the disk to be left alone", || {
            let status = Command::new("umount")
                .env("PATH", path())
                .arg(&self.mount)
                .output()
                .unwrap();
            status.status.success().then_some(())
        });
    }

    /// `loop3`.
    fn device(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = text(&self.mount);
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&mount));
        let device = line.unwrap().split(' ').next().unwrap();
        device.strip_prefix("/dev/").unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever state it is in, it must not stay mounted; lazily, as the daemon may still be there.
        let left = Command::new("umount")
            .env("PATH", path())
            .arg("-l")
            .arg(&self.mount)
            .output();
        if left.is_err() {
            eprintln!("{} stays mounted", self.mount.display());
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .env("PATH", path())
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

fn path() -> String {
    crate::support::path_with_sbin()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (linux/fs/ext4/ext4.h).
#[expect(unsafe_code, reason = "an ioctl that rustix does not know by name")]
fn shutdown(mount: &File) {
    const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: the request reads one u32 through the pointer, which `Setter` makes out of the value it owns.
    let done = unsafe {
        rustix::ioctl::ioctl(
            mount,
            rustix::ioctl::Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH),
        )
    };
    done.unwrap();
}
