//! Buses of files instead of hardware: `TIDEGATE_TEST_BUSES` names a directory in which `/dev/i2c-1` is `i2c-1`, and so on. Each file is
//! read again for every call, so that a test changes what a device says, or takes the device away, by writing or removing it.
//!
//! - I²C: lines `ADDRESS REGISTER: BYTES`, all in hexadecimal digits. The devices have registers that count on, as most sensors'.
//! - SPI: lines `SENT: CAME`, and nothing else is understood.
//! - GPIO: lines `LINE: 0` or `1`.
//!
//! What is written goes to `NAME.written`, a line each. A line `wait MS` makes every call take so long.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use embedded_hal::digital::{self, InputPin, OutputPin};
use embedded_hal::i2c::{self, I2c};
use embedded_hal::spi::{self, SpiDevice};
use tidegate_pipeline::Buses;

use crate::config::BusGrant;

/// Hands in the simulated device, where there is a directory of them. A pseudo terminal is a serial line as it is.
pub(crate) fn hand(buses: &mut Buses, name: &str, grant: &BusGrant) -> bool {
    let Some(root) = std::env::var_os("TIDEGATE_TEST_BUSES") else {
        return false;
    };
    let simulated = |device: &Path| Simulated {
        file: Path::new(&root).join(device.file_name().unwrap_or_default()),
        pointer: 0,
        line: 0,
    };
    match grant {
        BusGrant::I2c { device, address } => buses.i2c(name, *address, simulated(device)),
        BusGrant::Spi { device, .. } => buses.spi(name, simulated(device)),
        BusGrant::Gpio {
            chip, line, output, ..
        } => {
            let pin = Simulated {
                line: *line,
                ..simulated(chip)
            };
            match output {
                true => buses.output(name, pin),
                false => buses.input(name, pin),
            }
        }
        BusGrant::Uart { .. } => return false,
    }
    true
}

struct Simulated {
    file: PathBuf,
    /// The register that a sensor gives next.
    pointer: u8,
    line: u32,
}

/// Nobody is there.
#[derive(Debug)]
struct Nobody;

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody answers")
    }
}

impl i2c::Error for Nobody {
    fn kind(&self) -> i2c::ErrorKind {
        i2c::ErrorKind::NoAcknowledge(i2c::NoAcknowledgeSource::Address)
    }
}

impl spi::Error for Nobody {
    fn kind(&self) -> spi::ErrorKind {
        spi::ErrorKind::Other
    }
}

impl digital::Error for Nobody {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

impl Simulated {
    /// The parts before and after the colon of each line.
    fn lines(&self) -> Result<Vec<(String, String)>, Nobody> {
        let text = fs::read_to_string(&self.file).map_err(|_| Nobody)?;
        for line in text.lines() {
            if let Some(time) = line.strip_prefix("wait ").and_then(|t| t.parse().ok()) {
                sleep(Duration::from_millis(time));
            }
        }
        let parts = text.lines().filter_map(|line| line.split_once(':'));
        let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(parts
            .map(|(key, value)| (words(key), words(value)))
            .collect())
    }

    fn written(&self, what: &str) -> Result<(), Nobody> {
        let file = self.file.with_extension("written");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .map_err(|_| Nobody)?;
        writeln!(file, "{what}").map_err(|_| Nobody)
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<Vec<_>>().join(" ")
}

fn bytes(text: &str) -> Vec<u8> {
    let words = text.split_whitespace();
    words
        .filter_map(|word| u8::from_str_radix(word, 16).ok())
        .collect()
}

impl i2c::ErrorType for Simulated {
    type Error = Nobody;
}

impl I2c for Simulated {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [i2c::Operation<'_>],
    ) -> Result<(), Nobody> {
        let device = format!("{address:02x} ");
        let lines = self.lines()?;
        let registers = lines
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&device)?, value)));
        let mut memory = [None; 256];
        for (register, values) in registers {
            let register = usize::from_str_radix(register, 16).map_err(|_| Nobody)?;
            for (place, byte) in memory.iter_mut().skip(register).zip(bytes(values)) {
                *place = Some(byte);
            }
        }
        if memory.iter().all(Option::is_none) {
            return Err(Nobody);
        }
        for operation in operations {
            match operation {
                i2c::Operation::Write(sent) => {
                    self.pointer = sent.first().copied().unwrap_or(self.pointer);
                    if sent.len() > 1 {
                        self.written(&format!("{device}{}", hex(sent)))?;
                    }
                }
                i2c::Operation::Read(buffer) => {
                    for place in buffer.iter_mut() {
                        *place = memory[usize::from(self.pointer)].unwrap_or_default();
                        self.pointer = self.pointer.wrapping_add(1);
                    }
                }
            }
        }
        Ok(())
    }
}

impl spi::ErrorType for Simulated {
    type Error = Nobody;
}

impl SpiDevice for Simulated {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), Nobody> {
        let lines = self.lines()?;
        for operation in operations {
            match operation {
                spi::Operation::TransferInPlace(buffer) => {
                    let sent = hex(buffer);
                    let came = lines.iter().find(|(key, _)| *key == sent);
                    let came = came.map(|(_, value)| bytes(value)).unwrap_or_default();
                    for (index, place) in buffer.iter_mut().enumerate() {
                        // Nothing pulls the line down.
                        *place = came.get(index).copied().unwrap_or(0xFF);
                    }
                }
                spi::Operation::Read(buffer) => buffer.fill(0xFF),
                spi::Operation::Write(sent) => self.written(&hex(sent))?,
                spi::Operation::Transfer(buffer, sent) => {
                    self.written(&hex(sent))?;
                    buffer.fill(0xFF);
                }
                spi::Operation::DelayNs(time) => sleep(Duration::from_nanos(u64::from(*time))),
            }
        }
        Ok(())
    }
}

impl digital::ErrorType for Simulated {
    type Error = Nobody;
}

impl InputPin for Simulated {
    fn is_high(&mut self) -> Result<bool, Nobody> {
        let line = self.line.to_string();
        let lines = self.lines()?;
        let level = lines.iter().find(|(key, _)| *key == line).ok_or(Nobody)?;
        Ok(level.1 == "1")
    }

    fn is_low(&mut self) -> Result<bool, Nobody> {
        self.is_high().map(|high| !high)
    }
}

impl OutputPin for Simulated {
    fn set_low(&mut self) -> Result<(), Nobody> {
        self.written(&format!("{}: 0", self.line))
    }

    fn set_high(&mut self) -> Result<(), Nobody> {
        self.written(&format!("{}: 1", self.line))
    }
}
