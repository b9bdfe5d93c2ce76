//! What an engineer on site asks of a serial line before there is a configuration: which devices there are, and what comes.
//!
//! `guess.rs` is pure: it judges bytes. `devices.rs` reads what the kernel says of devices. Listening opens the line as a source would.

mod devices;
mod guess;

use std::io::{ErrorKind, Read};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use self::devices::{SerialDevice, serial_devices};
pub use self::guess::{Chunk, DecodeGuess, FrameGuess, Guess, guess, score};
use crate::serial::{Port, open_device};

/// How often a line without anything to read is looked at: less than the pause that tells frames apart.
const LOOK: Duration = Duration::from_millis(2);
/// Silence that parts what came before from what comes after.
const GAP: Duration = Duration::from_millis(20);
/// Bytes that are kept of one listening.
const BYTES: usize = 64 * 1024;

/// Listens on a line for so long, and no longer than it takes to hear enough. Blocks.
///
/// # Errors
/// In words, what a source would say of the line.
pub fn listen(port: &Port, time: Duration) -> Result<Vec<Chunk>, String> {
    let (mut file, _) = open_device(port).map_err(|error| error.to_string())?;
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut buffer = vec![0; 4096];
    let (began, mut heard, mut kept) = (Instant::now(), Instant::now(), 0);
    while began.elapsed() < time && kept < BYTES {
        match file.read(&mut buffer) {
            Ok(0) => return Err("the line has been hung up".to_owned()),
            Ok(count) => {
                let new = &buffer[..count];
                kept += count;
                match chunks.last_mut().filter(|_| heard.elapsed() < GAP) {
                    Some(chunk) => chunk.0.extend_from_slice(new),
                    None => chunks.push(Chunk(new.to_vec())),
                }
                heard = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(LOOK),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(chunks)
}
