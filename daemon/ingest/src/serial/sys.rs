//! The calls of the kernel's terminals that no dependency wraps: any speed, exclusive use, RS-485, counts of line errors.
//!
//! Layouts are those of Linux `asm-generic/termbits.h` and `linux/serial.h`. `TIOCSRS485` and `TIOCGICOUNT` are not verified on
//! hardware: a pseudo terminal has neither, which is what the tests see.
#![expect(
    unsafe_code,
    reason = "system calls with a pointer to a structure of their own"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use tokio::io::unix::AsyncFd;

use super::config::{Flow, LineSettings, Parity, Rs485};

/// `struct serial_rs485`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SerialRs485 {
    flags: u32,
    delay_rts_before_send: u32,
    delay_rts_after_send: u32,
    padding: [u32; 5],
}

const SER_RS485_ENABLED: u32 = 1;
const SER_RS485_RTS_ON_SEND: u32 = 1 << 1;
const SER_RS485_RTS_AFTER_SEND: u32 = 1 << 2;
const SER_RS485_RX_DURING_TX: u32 = 1 << 4;

/// `struct serial_icounter_struct`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SerialIcounter {
    cts: libc::c_int,
    dsr: libc::c_int,
    rng: libc::c_int,
    dcd: libc::c_int,
    rx: libc::c_int,
    tx: libc::c_int,
    frame: libc::c_int,
    overrun: libc::c_int,
    parity: libc::c_int,
    brk: libc::c_int,
    buf_overrun: libc::c_int,
    reserved: [libc::c_int; 9],
}

/// What a driver has counted since it was loaded. The counts wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Characters without a stop bit.
    pub(super) frame: u32,
    /// Characters with a wrong parity bit.
    pub(super) parity: u32,
    /// Breaks.
    pub(super) breaks: u32,
    /// Characters that the hardware or the kernel had no room for.
    pub(super) overrun: u32,
}

/// Sets the line: raw, at any speed. Says whether it is set as asked; a driver that cannot do something changes it silently.
///
/// # Errors
/// ENOTTY where the file is no terminal, EINVAL where the driver refuses.
pub(super) fn configure(fd: BorrowedFd<'_>, settings: &LineSettings) -> io::Result<bool> {
    let mut termios = get(fd)?;
    termios.c_iflag = match settings.parity {
        Parity::None => 0,
        // A character with a wrong bit is read as zero: its frame fails, and does not pass for another.
        Parity::Even | Parity::Odd => libc::INPCK,
    };
    termios.c_oflag = 0;
    termios.c_lflag = 0;
    termios.c_cflag = libc::CREAD | libc::CLOCAL | libc::BOTHER;
    termios.c_cflag |= match settings.data_bits {
        5 => libc::CS5,
        6 => libc::CS6,
        7 => libc::CS7,
        _ => libc::CS8,
    };
    termios.c_cflag |= match settings.parity {
        Parity::None => 0,
        Parity::Even => libc::PARENB,
        Parity::Odd => libc::PARENB | libc::PARODD,
    };
    if settings.stop_bits == 2 {
        termios.c_cflag |= libc::CSTOPB;
    }
    match settings.flow {
        Flow::None => {}
        Flow::Software => termios.c_iflag |= libc::IXON | libc::IXOFF,
        Flow::Hardware => termios.c_cflag |= libc::CRTSCTS,
    }
    termios.c_ispeed = settings.speed;
    termios.c_ospeed = settings.speed;
    termios.c_cc[libc::VMIN] = 1;
    termios.c_cc[libc::VTIME] = 0;
    // SAFETY: the pointer is to a `termios2` that lives through the call, which only reads it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCSETS2, &raw const termios) })?;
    let set = get(fd)?;
    let matters = libc::CSIZE | libc::PARENB | libc::PARODD | libc::CSTOPB | libc::CRTSCTS;
    Ok(set.c_cflag & matters == termios.c_cflag & matters && set.c_ospeed == settings.speed)
}

/// Has the runtime watch a file.
///
/// # Errors
/// A file that cannot be waited for.
pub(crate) fn watch(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, and nobody who borrows it out of the `AsyncFd` can close or replace it.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// Refuses the device to whoever opens it later, or no longer.
pub(super) fn set_exclusive(fd: BorrowedFd<'_>, exclusive: bool) -> io::Result<()> {
    let request = if exclusive {
        libc::TIOCEXCL
    } else {
        libc::TIOCNXCL
    };
    // SAFETY: neither request has an argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request) })
}

/// Has the kernel switch the direction of an RS-485 transceiver.
///
/// # Errors
/// ENOTTY where the driver cannot.
pub(super) fn set_rs485(fd: BorrowedFd<'_>, rs485: &Rs485) -> io::Result<()> {
    let mut wanted = wanted(rs485);
    // SAFETY: the pointer is to a `serial_rs485` that lives through the call, which may write what was set into it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSRS485, &raw mut wanted) })
}

fn wanted(rs485: &Rs485) -> SerialRs485 {
    let mut flags = SER_RS485_ENABLED;
    flags |= if rs485.rts_on_send {
        SER_RS485_RTS_ON_SEND
    } else {
        SER_RS485_RTS_AFTER_SEND
    };
    if rs485.receive_own {
        flags |= SER_RS485_RX_DURING_TX;
    }
    SerialRs485 {
        flags,
        delay_rts_before_send: rs485.delay_before,
        delay_rts_after_send: rs485.delay_after,
        ..SerialRs485::default()
    }
}

/// What the driver counts.
///
/// # Errors
/// ENOTTY or EINVAL where it counts nothing.
pub(super) fn counts(fd: BorrowedFd<'_>) -> io::Result<Counts> {
    let mut counted = SerialIcounter::default();
    // SAFETY: the pointer is to a `serial_icounter_struct` that lives through the call, which fills it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGICOUNT, &raw mut counted) })?;
    Ok(Counts {
        frame: counted.frame.cast_unsigned(),
        parity: counted.parity.cast_unsigned(),
        breaks: counted.brk.cast_unsigned(),
        overrun: counted
            .overrun
            .cast_unsigned()
            .wrapping_add(counted.buf_overrun.cast_unsigned()),
    })
}

fn get(fd: BorrowedFd<'_>) -> io::Result<libc::termios2> {
    // SAFETY: a `termios2` is integers alone, for which zero is a value.
    let mut termios: libc::termios2 = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `termios2` that lives through the call, which fills it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCGETS2, &raw mut termios) })?;
    Ok(termios)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::mem::{offset_of, size_of};
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    /// The master of a pseudo terminal is a terminal without a line.
    fn terminal() -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open("/dev/ptmx")
            .unwrap()
    }

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<SerialRs485>(), 32);
        assert_eq!(offset_of!(SerialRs485, delay_rts_before_send), 4);
        assert_eq!(offset_of!(SerialRs485, delay_rts_after_send), 8);
        assert_eq!(size_of::<SerialIcounter>(), 80);
        assert_eq!(offset_of!(SerialIcounter, frame), 24);
        assert_eq!(offset_of!(SerialIcounter, overrun), 28);
        assert_eq!(offset_of!(SerialIcounter, buf_overrun), 40);
        let rs485 = Rs485 {
            rts_on_send: true,
            delay_before: 1,
            delay_after: 2,
            receive_own: false,
        };
        let set = wanted(&rs485);
        let fields = (
            set.flags,
            set.delay_rts_before_send,
            set.delay_rts_after_send,
        );
        assert_eq!(fields, (0b011, 1, 2));
        let rs485 = Rs485 {
            rts_on_send: false,
            receive_own: true,
            ..rs485
        };
        assert_eq!(wanted(&rs485).flags, 0b1_0101);
    }

    #[test]
    fn what_a_line_cannot_do_is_an_error() {
        let terminal = terminal();
        let rs485 = Rs485 {
            rts_on_send: true,
            delay_before: 0,
            delay_after: 0,
            receive_own: false,
        };
        let refused = [
            set_rs485(terminal.as_fd(), &rs485).unwrap_err(),
            counts(terminal.as_fd()).unwrap_err(),
        ];
        for error in refused {
            let code = error.raw_os_error();
            assert!(
                code == Some(libc::ENOTTY) || code == Some(libc::EINVAL),
                "{error}"
            );
        }
        let settings = LineSettings {
            speed: 250_000,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            flow: Flow::None,
        };
        let file = File::open("/proc/version").unwrap();
        let error = configure(file.as_fd(), &settings).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_line_is_set_and_what_it_does_not_take_is_noticed() {
        let terminal = terminal();
        let mut settings = LineSettings {
            // None of the speeds with a name.
            speed: 31_250,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 2,
            flow: Flow::Software,
        };
        assert!(configure(terminal.as_fd(), &settings).unwrap());
        let set = get(terminal.as_fd()).unwrap();
        assert_eq!(
            (set.c_ispeed, set.c_ospeed, set.c_lflag),
            (31_250, 31_250, 0)
        );
        assert_eq!(set.c_iflag, libc::IXON | libc::IXOFF);
        // A pseudo terminal has eight bits and no parity.
        (settings.data_bits, settings.parity) = (7, Parity::Even);
        assert!(!configure(terminal.as_fd(), &settings).unwrap());
    }
}
