//! What a serial source is told.

use std::path::PathBuf;
use std::time::Duration;

use super::framing::Framing;

/// A serial source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialConfig {
    /// Index of the source in the configuration's order.
    pub index: usize,
    /// Its name, which stands where another's topic would.
    pub name: String,
    /// The line.
    pub port: Port,
    /// How the stream is cut.
    pub framing: Framing,
    /// Bytes of the longest frame.
    pub longest: usize,
    /// The silence that ends a frame, or what is begun of one; `None` for never.
    pub pause: Option<Duration>,
    /// What is written once, when the line is opened.
    pub initial: Vec<u8>,
    /// What is written again and again.
    pub query: Option<Query>,
}

/// A device and how it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The device, or a link to it that names its identity (`/dev/serial/by-id/…`).
    pub device: PathBuf,
    /// How the line is set.
    pub line: LineSettings,
    /// Whether no other program may open the device meanwhile.
    pub exclusive: bool,
    /// Direction of an RS-485 transceiver, switched by the kernel.
    pub rs485: Option<Rs485>,
}

/// What an instrument has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Time between two questions.
    pub every: Duration,
}

/// How a line is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    /// Bits a second, any number that the hardware can do.
    pub speed: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// The parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Who stops whom, and how.
    pub flow: Flow,
}

/// The parity bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// There is none.
    None,
    /// It makes the number of ones even.
    Even,
    /// It makes it odd.
    Odd,
}

/// Flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Nobody stops anybody.
    None,
    /// By XON and XOFF, which then cannot occur in frames.
    Software,
    /// By RTS and CTS.
    Hardware,
}

/// Direction of an RS-485 transceiver: the kernel drives RTS around what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS is high while sending; otherwise it is low then, and high while receiving.
    pub rts_on_send: bool,
    /// Milliseconds between RTS and the first bit.
    pub delay_before: u32,
    /// Milliseconds between the last bit and RTS.
    pub delay_after: u32,
    /// Whether what we send is received as well.
    pub receive_own: bool,
}
