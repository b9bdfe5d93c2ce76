//! What a Modbus source is told.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::map::{Point, Table};
use crate::serial::Port;

/// A Modbus source.
#[derive(Clone, Debug)]
pub struct ModbusConfig {
    /// Index of the source in the configuration's order.
    pub index: usize,
    /// Its name, which stands where another's topic would.
    pub name: String,
    /// How its slaves are reached.
    pub line: ModbusLine,
    /// What is read, in order.
    pub groups: Vec<ReadGroup>,
}

/// How slaves are reached.
#[derive(Clone, Debug)]
pub struct ModbusLine {
    /// The line itself.
    pub link: Link,
    /// How long a slave may take to begin and end its answer, beside the time that the line needs.
    pub timeout: Duration,
    /// How long a slave that failed is left alone: a later answer cannot be told from that to another request on a serial line.
    pub quarantine: Duration,
    /// Silence between two requests, where slaves need more than the standard wants.
    pub pause: Duration,
    /// Attempts after the first.
    pub retries: u32,
}

/// A line or a connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// RTU on a serial line.
    Serial(Port),
    /// A TCP connection.
    Tcp {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
        /// Whether frames on it are those of a serial line.
        rtu: bool,
    },
}

impl Link {
    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Serial(port) => port.device.display().to_string(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("tcp://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("tcp://{host}:{port}"),
        }
    }
}

/// Values that are read together and equally often.
#[derive(Clone, Debug)]
pub struct ReadGroup {
    /// The slave's address.
    pub unit: u8,
    /// Which table.
    pub table: Table,
    /// Time between two polls.
    pub interval: Duration,
    /// Registers, or bits, of one request at most.
    pub most: u16,
    /// Registers of a gap that may be read for nothing.
    pub fill: u16,
    /// What is never read.
    pub forbidden: Vec<Range<u32>>,
    /// Where only changes are wanted: how old a value may become before it is handed on all the same.
    pub on_change: Option<Duration>,
    /// The values.
    pub points: Arc<[Point]>,
}
