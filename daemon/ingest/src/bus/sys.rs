//! The calls of the kernel's I²C and SPI: a transfer of messages, and the settings of an SPI device.
//!
//! Layouts are those of Linux `linux/i2c.h`, `linux/i2c-dev.h` and `linux/spi/spidev.h`. None is verified on hardware.
#![expect(
    unsafe_code,
    reason = "system calls with a pointer to a structure of their own"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages of one transfer (`I2C_RDWR_IOCTL_MAX_MSGS`).
pub(super) const I2C_MESSAGES: usize = 42;
/// Bytes of one message; the kernel takes 8192.
pub(super) const I2C_BYTES: usize = 8192;
/// Transfers of one message of SPI: what a request's size has room for is 511.
pub(super) const SPI_TRANSFERS: usize = 256;

const I2C_RDWR: u32 = 0x0707;
const I2C_M_RD: u16 = 1;
const SPI_IOC_WR_MODE: u32 = write_request(1, 1);
const SPI_IOC_WR_BITS_PER_WORD: u32 = write_request(3, 1);
const SPI_IOC_WR_MAX_SPEED_HZ: u32 = write_request(4, 4);

/// `_IOW('k', number, size)` of `asm-generic/ioctl.h`.
const fn write_request(number: u32, size: u32) -> u32 {
    1 << 30 | size << 16 | 0x6B << 8 | number
}

/// `struct i2c_msg`.
#[repr(C)]
struct I2cMessage {
    address: u16,
    flags: u16,
    length: u16,
    buffer: *mut u8,
}

/// `struct i2c_rdwr_ioctl_data`.
#[repr(C)]
struct I2cTransfer {
    messages: *mut I2cMessage,
    count: u32,
}

/// `struct spi_ioc_transfer`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SpiTransfer {
    sent: u64,
    came: u64,
    length: u32,
    speed_hz: u32,
    delay_us: u16,
    bits_per_word: u8,
    change_select: u8,
    sent_lines: u8,
    came_lines: u8,
    word_delay_us: u8,
    padding: u8,
}

/// One way of a transfer.
pub(super) enum Part {
    /// These bytes go out.
    Write(Vec<u8>),
    /// These places are filled.
    Read(Vec<u8>),
}

/// Carries out parts between one start and one stop condition, with a repeated start between them.
///
/// # Errors
/// The kernel's; EINVAL for more than it takes.
pub(super) fn i2c(fd: BorrowedFd<'_>, address: u16, parts: &mut [Part]) -> io::Result<()> {
    if parts.is_empty() || parts.len() > I2C_MESSAGES {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut messages = Vec::with_capacity(parts.len());
    for part in parts {
        let (flags, bytes) = match part {
            Part::Write(bytes) => (0, bytes),
            Part::Read(bytes) => (I2C_M_RD, bytes),
        };
        let length = u16::try_from(bytes.len()).ok();
        let length = length.filter(|length| usize::from(*length) <= I2C_BYTES);
        messages.push(I2cMessage {
            address,
            flags,
            length: length.ok_or(io::Error::from_raw_os_error(libc::EINVAL))?,
            buffer: bytes.as_mut_ptr(),
        });
    }
    let transfer = I2cTransfer {
        messages: messages.as_mut_ptr(),
        count: u32::try_from(messages.len()).unwrap_or_default(),
    };
    // SAFETY: `transfer` points to `messages`, and each of those to the bytes of a part, with their numbers; all of them live through
    // the call, are borrowed by nobody else, and the kernel writes no further than a length says.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), I2C_RDWR.into(), &raw const transfer) })
}

/// One step of a message of SPI.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes go out, and are replaced by what comes meanwhile.
    Transfer(Vec<u8>),
    /// The chip stays selected so long.
    Delay {
        /// In microseconds.
        us: u16,
    },
}

/// Carries out steps with the chip selected throughout.
///
/// # Errors
/// The kernel's; EINVAL for more than it takes.
pub(super) fn spi(fd: BorrowedFd<'_>, steps: &mut [Step]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    if steps.is_empty() || steps.len() > SPI_TRANSFERS {
        return Err(invalid());
    }
    let mut transfers = Vec::with_capacity(steps.len());
    for step in steps {
        transfers.push(match step {
            Step::Transfer(bytes) => {
                let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
                SpiTransfer {
                    sent: buffer,
                    came: buffer,
                    length: u32::try_from(bytes.len()).map_err(|_| invalid())?,
                    ..SpiTransfer::default()
                }
            }
            Step::Delay { us } => SpiTransfer {
                delay_us: *us,
                ..SpiTransfer::default()
            },
        });
    }
    let size = u32::try_from(transfers.len() * size_of::<SpiTransfer>()).map_err(|_| invalid())?;
    let request = write_request(0, size);
    // SAFETY: the pointer is to as many transfers as the request's size says, and each of those to the bytes of a step, with their
    // number; all of them live through the call and are borrowed by nobody else. The kernel copies what goes out before it writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), transfers.as_ptr()) })
}

/// Sets an SPI device: words of 8 bits, the most significant one first.
///
/// # Errors
/// EINVAL where the controller cannot.
pub(super) fn configure_spi(fd: BorrowedFd<'_>, mode: u8, speed_hz: u32) -> io::Result<()> {
    let (mode, bits) = (mode & 3, 8u8);
    // SAFETY: the pointer is to a byte that lives through the call, which only reads it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SPI_IOC_WR_MODE.into(), &raw const mode) })?;
    // SAFETY: likewise.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            SPI_IOC_WR_BITS_PER_WORD.into(),
            &raw const bits,
        )
    })?;
    // SAFETY: the pointer is to a number of 32 bits that lives through the call, which only reads it.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            SPI_IOC_WR_MAX_SPEED_HZ.into(),
            &raw const speed_hz,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::mem::offset_of;
    use std::os::fd::AsFd;

    use super::*;

    /// The numbers of Debian's headers, printed by a program in C.
    #[test]
    fn layouts_and_requests_are_the_kernels() {
        assert_eq!(
            (size_of::<I2cMessage>(), offset_of!(I2cMessage, buffer)),
            (16, 8)
        );
        assert_eq!(
            (size_of::<I2cTransfer>(), offset_of!(I2cTransfer, count)),
            (16, 8)
        );
        assert_eq!(
            (size_of::<SpiTransfer>(), offset_of!(SpiTransfer, length)),
            (32, 16)
        );
        assert_eq!(offset_of!(SpiTransfer, delay_us), 24);
        assert_eq!(SPI_IOC_WR_MODE, 0x4001_6B01);
        assert_eq!(SPI_IOC_WR_BITS_PER_WORD, 0x4001_6B03);
        assert_eq!(SPI_IOC_WR_MAX_SPEED_HZ, 0x4004_6B04);
        assert_eq!(write_request(0, 32), 0x4020_6B00);
    }

    #[test]
    fn what_is_no_bus_says_so_and_too_much_is_refused_before() {
        let file = File::open("/dev/null").unwrap();
        let code = |done: io::Result<()>| done.unwrap_err().raw_os_error();
        let fd = file.as_fd();
        assert_eq!(
            code(i2c(fd, 0x76, &mut [Part::Read(vec![0])])),
            Some(libc::ENOTTY)
        );
        let long = &mut [Part::Write(vec![0; I2C_BYTES + 1])];
        assert_eq!(code(i2c(fd, 0x76, long)), Some(libc::EINVAL));
        assert_eq!(code(i2c(fd, 0x76, &mut [])), Some(libc::EINVAL));
        assert_eq!(
            code(spi(fd, &mut [Step::Transfer(vec![0])])),
            Some(libc::ENOTTY)
        );
        let many: Vec<Step> = (0..=SPI_TRANSFERS).map(|_| Step::Delay { us: 1 }).collect();
        let mut many = many;
        assert_eq!(code(spi(fd, &mut many)), Some(libc::EINVAL));
        assert_eq!(code(configure_spi(fd, 0, 1_000_000)), Some(libc::ENOTTY));
    }
}
