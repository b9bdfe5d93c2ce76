//! An open serial line.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use tokio::io::unix::AsyncFd;

use super::config::Port;
use super::sys::{self, Counts};

/// Major numbers of pseudo terminals (Linux `Documentation/admin-guide/devices.txt`).
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u64> = 136..=143;

/// An open line. Dropping it closes the device: one that is held while it is gone makes the kernel give another name to the
/// one that comes back.
pub(crate) struct Line {
    file: AsyncFd<File>,
    exclusive: bool,
    /// What the driver had counted at the last look; `None` where it counts nothing.
    counted: Option<Counts>,
}

/// Why a line cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("`{device}` is not there; it is taken up when it is plugged in")]
    Absent { device: String },
    #[error(
        "`{device}` may not be opened: add the user that runs tidegate to the group of the device, which is `dialout` on Debian"
    )]
    Denied { device: String },
    #[error("`{device}` is in use by another program")]
    Busy { device: String },
    #[error("`{device}` is no serial line")]
    NoLine { device: String },
    #[error("`{device}` cannot be opened: {error}")]
    Open { device: String, error: io::Error },
    #[error("`{device}` cannot be set to {settings}: {error}")]
    Settings {
        device: String,
        settings: String,
        error: io::Error,
    },
    #[error(
        "the driver of `{device}` does not switch the direction of RS-485 ({error}): remove `rs485` where the adapter does it by itself"
    )]
    Rs485 { device: String, error: io::Error },
    #[error("`{device}` has gone")]
    Gone { device: String },
    #[error("`{device}` failed: {error}")]
    Failed { device: String, error: io::Error },
}

impl LineError {
    /// A read that brings nothing says that the line has been hung up.
    pub(crate) fn gone(port: &Port) -> Self {
        Self::Gone {
            device: shown(&port.device),
        }
    }

    /// What a read or a write says of a line.
    pub(crate) fn broken(port: &Port, error: io::Error) -> Self {
        let device = shown(&port.device);
        match error.raw_os_error() {
            Some(libc::EIO | libc::ENXIO | libc::ENODEV) => Self::Gone { device },
            Some(_) | None => Self::Failed { device, error },
        }
    }
}

/// Opens a device and sets it. Says whether it was taken for this process alone, which is to be given back.
pub(crate) fn open(port: &Port) -> Result<(File, bool), LineError> {
    let device = || shown(&port.device);
    let failed = |error: io::Error| match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) | (_, Some(libc::ENXIO | libc::ENODEV)) => {
            LineError::Absent { device: device() }
        }
        (ErrorKind::PermissionDenied, _) => LineError::Denied { device: device() },
        (ErrorKind::ResourceBusy, _) => LineError::Busy { device: device() },
        (_, Some(libc::ENOTTY)) => LineError::NoLine { device: device() },
        (_, _) => LineError::Open {
            device: device(),
            error,
        },
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(&port.device)
        .map_err(failed)?;
    if port.exclusive {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LineError::Busy { device: device() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    let line = &port.line;
    let as_asked =
        sys::configure(file.as_fd(), line).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTTY) => LineError::NoLine { device: device() },
            Some(_) | None => LineError::Settings {
                device: device(),
                settings: format!("{line:?}"),
                error,
            },
        })?;
    if !as_asked {
        tracing::warn!("the driver of `{}` did not take all of {line:?}", device());
    }
    // On a pseudo terminal it would outlive us for as long as the other end is open.
    let major = major(file.metadata().map_err(failed)?.rdev());
    let exclusive = port.exclusive && !PSEUDO_TERMINALS.contains(&major);
    if exclusive {
        sys::set_exclusive(file.as_fd(), true).map_err(failed)?;
    }
    if let Some(rs485) = &port.rs485 {
        sys::set_rs485(file.as_fd(), rs485).map_err(|error| LineError::Rs485 {
            device: device(),
            error,
        })?;
    }
    Ok((file, exclusive))
}

impl Line {
    pub(crate) fn open(port: &Port) -> Result<Self, LineError> {
        let (file, exclusive) = open(port)?;
        let counted = sys::counts(file.as_fd()).ok();
        Ok(Self {
            file: sys::watch(file).map_err(|error| LineError::Open {
                device: shown(&port.device),
                error,
            })?,
            exclusive,
            counted,
        })
    }

    /// Reads what is there, at least a byte; `Ok(0)` where the line has been hung up. Can be cancelled.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.file.readable().await?;
            match ready.try_io(|file| file.get_ref().read(buffer)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }

    /// Reads what is there at this moment.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.get_ref().read(buffer)
    }

    /// Writes some of the bytes. Can be cancelled.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.file.writable().await?;
            match ready.try_io(|file| file.get_ref().write(bytes)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(written) => return written,
                Err(_would_block) => {}
            }
        }
    }

    /// What the driver has counted since the last look, where it counts and that was anything.
    pub(super) fn look(&mut self) -> Option<Counts> {
        let before = self.counted?;
        // What cannot be read is no longer counted; that the device is gone, a read will tell.
        self.counted = sys::counts(self.file.get_ref().as_fd()).ok();
        let now = self.counted?;
        let new = Counts {
            frame: now.frame.wrapping_sub(before.frame),
            parity: now.parity.wrapping_sub(before.parity),
            breaks: now.breaks.wrapping_sub(before.breaks),
            overrun: now.overrun.wrapping_sub(before.overrun),
        };
        (new != Counts::default()).then_some(new)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.exclusive
            && let Err(error) = sys::set_exclusive(self.file.get_ref().as_fd(), false)
        {
            tracing::debug!(%error, "a device that is closed stays exclusive until everybody has closed it");
        }
    }
}

fn shown(device: &Path) -> String {
    device.display().to_string()
}

/// The major number of a device, as glibc's `gnu_dev_major` takes it out of `st_rdev`.
fn major(device: u64) -> u64 {
    (device >> 8) & 0xFFF | (device >> 32) & !0xFFF
}
