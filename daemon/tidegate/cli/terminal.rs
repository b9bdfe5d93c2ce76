//! A secret typed at the terminal, which shows none of it.
#![expect(
    unsafe_code,
    reason = "the settings of a terminal have no safe call among our dependencies"
)]

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;

/// Bytes of a line that somebody types.
const LINE_BYTES: usize = 1024;

/// Whether somebody can be asked.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// Asks for a line. Keys that erase work as ever; Ctrl-C gives an error, and the terminal is as before in any case.
///
/// # Errors
/// There is no terminal, it ended, or whoever sits there gave up.
pub(super) fn ask(question: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let quiet = Quiet::new(stdin.as_raw_fd())?;
    let mut screen = io::stderr();
    write!(screen, "{question}: ")?;
    screen.flush()?;
    let line = line(&mut stdin.lock());
    drop(quiet);
    writeln!(screen)?;
    line
}

fn line(keyboard: &mut impl Read) -> io::Result<String> {
    let mut line: Vec<u8> = Vec::new();
    let mut byte = [0];
    loop {
        if keyboard.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte[0] {
            b'\n' | b'\r' => break,
            // Ctrl-C, Ctrl-D.
            3 | 4 => return Err(io::ErrorKind::Interrupted.into()),
            // Erase a character, which may be several bytes.
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U.
            21 => line.clear(),
            byte if line.len() < LINE_BYTES => line.push(byte),
            _ => return Err(io::Error::other("that is too long")),
        }
    }
    String::from_utf8(line).map_err(|_| io::Error::other("that is no UTF-8"))
}

/// A terminal that echoes nothing and hands over each key, until this is dropped.
struct Quiet {
    terminal: i32,
    before: libc::termios,
}

impl Quiet {
    fn new(terminal: i32) -> io::Result<Self> {
        let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the call writes a whole `termios` there when it succeeds, and nothing beyond it.
        let before = unsafe {
            if libc::tcgetattr(terminal, before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            before.assume_init()
        };
        let quiet = Self { terminal, before };
        let mut settings = before;
        // No signal either: it would end the program and leave the terminal mute.
        settings.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
        settings.c_cc[libc::VMIN] = 1;
        settings.c_cc[libc::VTIME] = 0;
        set(terminal, &settings)?;
        Ok(quiet)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = set(self.terminal, &self.before) {
            tracing::error!(%error, "the terminal cannot be put back; `stty sane` does it");
        }
    }
}

/// What was typed before it was asked for is thrown away.
fn set(terminal: i32, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the call reads a whole `termios` from there and keeps nothing.
    match unsafe { libc::tcsetattr(terminal, libc::TCSAFLUSH, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_erase_erase_and_those_that_give_up_do() {
        let typed = |keys: &str| line(&mut keys.as_bytes()).map_err(|error| error.kind());
        assert_eq!(typed("geheim\n").unwrap(), "geheim");
        assert_eq!(typed("geheimm\u{7f}\r").unwrap(), "geheim");
        assert_eq!(typed("grün\u{8}\u{8}\u{8}ün\n").unwrap(), "gün");
        assert_eq!(typed("\u{7f}a\n").unwrap(), "a");
        assert_eq!(typed("wrong\u{15}right\n").unwrap(), "right");
        assert_eq!(typed("\n").unwrap(), "");
        assert_eq!(typed("ge\u{3}heim\n"), Err(io::ErrorKind::Interrupted));
        assert_eq!(typed("ge"), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(typed(&"x".repeat(2000)), Err(io::ErrorKind::Other));
    }
}
