//! What the kernel knows of the wall clock. `adjtimex` has no safe wrapper among our dependencies.
#![expect(
    unsafe_code,
    reason = "one system call with a pointer to a structure of its own"
)]

use std::io;

/// Whether something that compares the clock with others (an NTP or PTP service) tells the kernel that it is right.
///
/// # Errors
/// The kernel does not answer: systemd's `ProtectClock` and system call filters forbid even asking.
pub(super) fn is_synchronised() -> io::Result<bool> {
    // SAFETY: a `timex` is integers alone, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives through the call; `modes` 0 only reads.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    match state {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(timex.status & libc::STA_UNSYNC == 0),
    }
}
