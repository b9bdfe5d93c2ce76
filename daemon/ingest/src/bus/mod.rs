//! The kernel's buses behind embedded-hal: I²C and SPI by calls of their own (`sys.rs`), single lines by gpiocdev, serial lines by `serial/`.
//!
//! Each device is opened when it is first used, and anew after whatever failed: a bus whose adapter is plugged in again is taken up by
//! the next call. The kernel arbitrates between those who have the same bus open. Nothing here is verified on hardware: the machines that
//! test it have no such bus.

mod sys;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use embedded_hal::digital::{self, InputPin, OutputPin, PinState};
use embedded_hal::i2c::{self, I2c};
use embedded_hal::spi::{self, SpiDevice};
use gpiocdev::line::{Bias, Value};

use self::sys::{Part, Step};
use crate::serial::{LineError, Port, open_device};

/// How often a serial line without anything to read is looked at: two characters at 9600 baud.
const LOOK: Duration = Duration::from_millis(2);

/// What a bus said, and what that means.
#[derive(Debug)]
pub struct BusFault {
    text: String,
    i2c: i2c::ErrorKind,
}

impl BusFault {
    fn new(device: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self {
            text: format!("{device}: {what}"),
            i2c: i2c::ErrorKind::Other,
        }
    }
}

impl fmt::Display for BusFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BusFault {}

impl i2c::Error for BusFault {
    fn kind(&self) -> i2c::ErrorKind {
        self.i2c
    }
}

impl spi::Error for BusFault {
    fn kind(&self) -> spi::ErrorKind {
        spi::ErrorKind::Other
    }
}

impl digital::Error for BusFault {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

impl embedded_io::Error for BusFault {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::Other
    }
}

/// An I²C bus of the kernel.
pub struct LinuxI2c {
    device: PathBuf,
    open: Option<File>,
}

impl LinuxI2c {
    /// `/dev/i2c-N`.
    #[must_use]
    pub fn new(device: PathBuf) -> Self {
        Self { device, open: None }
    }
}

impl i2c::ErrorType for LinuxI2c {
    type Error = BusFault;
}

impl I2c for LinuxI2c {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [i2c::Operation<'_>],
    ) -> Result<(), BusFault> {
        let fault = |error: io::Error| BusFault {
            i2c: meaning(&error),
            text: format!("{}: {error}", self.device.display()),
        };
        let bus = match self.open.take() {
            Some(bus) => bus,
            None => opened(&self.device).map_err(fault)?,
        };
        let mut parts = joined(operations);
        if !parts.is_empty() {
            sys::i2c(bus.as_fd(), u16::from(address), &mut parts).map_err(fault)?;
        }
        parted(&parts, operations);
        self.open = Some(bus);
        Ok(())
    }
}

/// What stands next to each other and goes the same way is one message: embedded-hal has no repeated start there.
fn joined(operations: &[i2c::Operation<'_>]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for operation in operations {
        match (parts.last_mut(), operation) {
            (Some(Part::Write(before)), i2c::Operation::Write(bytes)) => {
                before.extend_from_slice(bytes);
            }
            (Some(Part::Read(before)), i2c::Operation::Read(buffer)) => {
                before.resize(before.len() + buffer.len(), 0);
            }
            (_, i2c::Operation::Write(bytes)) => parts.push(Part::Write(bytes.to_vec())),
            (_, i2c::Operation::Read(buffer)) => parts.push(Part::Read(vec![0; buffer.len()])),
        }
    }
    parts
}

/// Puts what was read where it is waited for.
fn parted(parts: &[Part], operations: &mut [i2c::Operation<'_>]) {
    let mut bytes = parts.iter().flat_map(|part| match part {
        Part::Read(bytes) => bytes.as_slice(),
        Part::Write(_) => &[],
    });
    for operation in operations {
        if let i2c::Operation::Read(buffer) = operation {
            buffer
                .iter_mut()
                .zip(&mut bytes)
                .for_each(|(place, byte)| *place = *byte);
        }
    }
}

/// What an error of the kernel's means (`Documentation/i2c/fault-codes.rst`).
fn meaning(error: &io::Error) -> i2c::ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENXIO | libc::EREMOTEIO) => {
            i2c::ErrorKind::NoAcknowledge(i2c::NoAcknowledgeSource::Unknown)
        }
        Some(libc::EAGAIN) => i2c::ErrorKind::ArbitrationLoss,
        Some(libc::EBUSY | libc::EIO | libc::ETIMEDOUT | libc::EPROTO) => i2c::ErrorKind::Bus,
        Some(libc::EOVERFLOW) => i2c::ErrorKind::Overrun,
        Some(_) | None => i2c::ErrorKind::Other,
    }
}

fn opened(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

/// A device on SPI, with a chip select of the kernel's.
pub struct LinuxSpi {
    device: PathBuf,
    speed: u32,
    mode: u8,
    open: Option<File>,
}

impl LinuxSpi {
    /// `/dev/spidevB.C`, at so many bits a second, in mode 0 to 3.
    #[must_use]
    pub fn new(device: PathBuf, speed: u32, mode: u8) -> Self {
        Self {
            device,
            speed,
            mode,
            open: None,
        }
    }

    fn opened(&self) -> io::Result<File> {
        let device = opened(&self.device)?;
        sys::configure_spi(device.as_fd(), self.mode, self.speed)?;
        Ok(device)
    }
}

impl spi::ErrorType for LinuxSpi {
    type Error = BusFault;
}

impl SpiDevice for LinuxSpi {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), BusFault> {
        let fault = |error: io::Error| BusFault::new(self.device.display(), error);
        let open = match self.open.take() {
            Some(open) => open,
            None => self.opened().map_err(fault)?,
        };
        let mut steps: Vec<Step> = operations.iter().map(step).collect();
        if !steps.is_empty() {
            sys::spi(open.as_fd(), &mut steps).map_err(fault)?;
        }
        for (operation, step) in operations.iter_mut().zip(&steps) {
            let Step::Transfer(came) = step else { continue };
            match operation {
                spi::Operation::Read(buffer)
                | spi::Operation::Transfer(buffer, _)
                | spi::Operation::TransferInPlace(buffer) => {
                    buffer
                        .iter_mut()
                        .zip(came)
                        .for_each(|(place, byte)| *place = *byte);
                }
                spi::Operation::Write(_) | spi::Operation::DelayNs(_) => {}
            }
        }
        self.open = Some(open);
        Ok(())
    }
}

/// Every byte that comes is one that goes: zeros where there is nothing to send.
fn step(operation: &spi::Operation<'_, u8>) -> Step {
    match operation {
        spi::Operation::Read(buffer) => Step::Transfer(vec![0; buffer.len()]),
        spi::Operation::Write(bytes) => Step::Transfer(bytes.to_vec()),
        spi::Operation::Transfer(buffer, bytes) => {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().max(buffer.len()), 0);
            Step::Transfer(bytes)
        }
        spi::Operation::TransferInPlace(buffer) => Step::Transfer(buffer.to_vec()),
        // The kernel's longest is 65 ms.
        spi::Operation::DelayNs(time) => Step::Delay {
            us: u16::try_from(time.div_ceil(1000)).unwrap_or(u16::MAX),
        },
    }
}

/// A single line of a GPIO chip.
pub struct LinuxPin {
    chip: PathBuf,
    line: u32,
    output: bool,
    active_low: bool,
    bias: Option<PinBias>,
    open: Option<gpiocdev::Request>,
}

/// What holds an input that nothing drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PinBias {
    PullUp,
    PullDown,
    None,
}

impl LinuxPin {
    /// A line that is read; `active_low` turns what high means.
    #[must_use]
    pub fn input(chip: PathBuf, line: u32, active_low: bool, bias: Option<PinBias>) -> Self {
        Self {
            chip,
            line,
            output: false,
            active_low,
            bias,
            open: None,
        }
    }

    /// A line that is set; low until it is.
    #[must_use]
    pub fn output(chip: PathBuf, line: u32, active_low: bool) -> Self {
        Self {
            chip,
            line,
            output: true,
            active_low,
            bias: None,
            open: None,
        }
    }

    fn request(&self) -> gpiocdev::Result<gpiocdev::Request> {
        let mut builder = gpiocdev::Request::builder();
        builder
            .on_chip(&self.chip)
            .with_consumer("tidegate")
            .with_line(self.line);
        match self.output {
            true => builder.as_output(Value::Inactive),
            false => builder.as_input(),
        };
        if self.active_low {
            builder.as_active_low();
        }
        if let Some(bias) = self.bias {
            builder.with_bias(match bias {
                PinBias::PullUp => Bias::PullUp,
                PinBias::PullDown => Bias::PullDown,
                PinBias::None => Bias::Disabled,
            });
        }
        builder.request()
    }

    /// An output keeps its level only while it is held.
    fn with<T>(
        &mut self,
        what: impl FnOnce(&gpiocdev::Request) -> gpiocdev::Result<T>,
    ) -> Result<T, BusFault> {
        let fault = |error| {
            let device = format!("{} line {}", self.chip.display(), self.line);
            BusFault::new(device, error)
        };
        let request = match self.open.take() {
            Some(request) => request,
            None => self.request().map_err(fault)?,
        };
        let done = what(&request).map_err(fault)?;
        self.open = Some(request);
        Ok(done)
    }
}

impl digital::ErrorType for LinuxPin {
    type Error = BusFault;
}

impl InputPin for LinuxPin {
    fn is_high(&mut self) -> Result<bool, BusFault> {
        let line = self.line;
        self.with(|request| Ok(request.value(line)? == Value::Active))
    }

    fn is_low(&mut self) -> Result<bool, BusFault> {
        self.is_high().map(|high| !high)
    }
}

impl OutputPin for LinuxPin {
    fn set_low(&mut self) -> Result<(), BusFault> {
        self.set_state(PinState::Low)
    }

    fn set_high(&mut self) -> Result<(), BusFault> {
        self.set_state(PinState::High)
    }

    fn set_state(&mut self, state: PinState) -> Result<(), BusFault> {
        let line = self.line;
        let value = match state {
            PinState::Low => Value::Inactive,
            PinState::High => Value::Active,
        };
        self.with(|request| request.set_value(line, value).map(drop))
    }
}

/// A serial line that is read and written, and not framed.
pub struct LinuxUart {
    port: Port,
    timeout: Duration,
    open: Option<File>,
}

impl LinuxUart {
    /// A read waits so long for its first byte.
    #[must_use]
    pub fn new(port: Port, timeout: Duration) -> Self {
        Self {
            port,
            timeout,
            open: None,
        }
    }

    /// Tries until something is done or the time is up, which is `None`.
    fn within(
        &mut self,
        mut attempt: impl FnMut(&mut File) -> io::Result<usize>,
    ) -> Result<Option<usize>, BusFault> {
        let mut file = match self.open.take() {
            Some(file) => file,
            None => {
                open_device(&self.port)
                    .map_err(|error| BusFault::new("uart", error))?
                    .0
            }
        };
        let until = Instant::now() + self.timeout;
        loop {
            let done = match attempt(&mut file) {
                Ok(0) => Err(LineError::gone(&self.port)),
                Ok(count) => Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() < until {
                        sleep(LOOK);
                        continue;
                    }
                    Ok(None)
                }
                Err(error) => Err(LineError::broken(&self.port, error)),
            };
            let done = done.map_err(|error| BusFault::new("uart", error))?;
            self.open = Some(file);
            return Ok(done);
        }
    }
}

impl embedded_io::ErrorType for LinuxUart {
    type Error = BusFault;
}

impl embedded_io::Read for LinuxUart {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BusFault> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.within(|file| file.read(buffer))?;
        Ok(read.unwrap_or_default())
    }
}

impl embedded_io::Write for LinuxUart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, BusFault> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = self.within(|file| file.write(bytes))?;
        written.ok_or_else(|| BusFault::new("uart", "the line takes nothing"))
    }

    fn flush(&mut self) -> Result<(), BusFault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_the_same_way_is_one_message() {
        let (mut one, mut two, mut three) = ([0; 2], [0; 1], [0; 1]);
        let mut operations = [
            i2c::Operation::Write(&[1]),
            i2c::Operation::Write(&[2, 3]),
            i2c::Operation::Read(&mut one),
            i2c::Operation::Read(&mut two),
            i2c::Operation::Write(&[4]),
            i2c::Operation::Read(&mut three),
        ];
        let mut parts = joined(&operations);
        let shown: Vec<(bool, usize)> = parts
            .iter()
            .map(|part| match part {
                Part::Write(bytes) => (true, bytes.len()),
                Part::Read(bytes) => (false, bytes.len()),
            })
            .collect();
        assert_eq!(shown, [(true, 3), (false, 3), (true, 1), (false, 1)]);
        let mut next = 10;
        for part in &mut parts {
            if let Part::Read(bytes) = part {
                for byte in bytes {
                    *byte = next;
                    next += 1;
                }
            }
        }
        parted(&parts, &mut operations);
        assert_eq!((one, two, three), ([10, 11], [12], [13]));
    }

    #[test]
    fn every_byte_that_comes_is_one_that_goes() {
        let (mut short, mut long) = ([0; 1], [0; 3]);
        let operations = [
            spi::Operation::Transfer(&mut long, &[1]),
            spi::Operation::Transfer(&mut short, &[1, 2]),
            spi::Operation::DelayNs(1500),
            spi::Operation::DelayNs(u32::MAX),
        ];
        let steps: Vec<Step> = operations.iter().map(step).collect();
        assert_eq!(
            steps,
            [
                Step::Transfer(vec![1, 0, 0]),
                Step::Transfer(vec![1, 2]),
                Step::Delay { us: 2 },
                Step::Delay { us: u16::MAX }
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_told_and_looked_for_again() {
        let gone = || PathBuf::from("/nonexistent/bus");
        let mut bus = LinuxI2c::new(gone());
        let mut device = LinuxSpi::new(gone(), 1_000_000, 0);
        let mut pin = LinuxPin::input(gone(), 3, false, Some(PinBias::PullUp));
        for _ in 0..2 {
            let error = I2c::read(&mut bus, 0x76, &mut [0]).unwrap_err();
            assert!(error.to_string().contains("/nonexistent/bus: "), "{error}");
            let error = SpiDevice::write(&mut device, &[1]).unwrap_err();
            assert!(error.to_string().contains("No such file"), "{error}");
            let error = pin.is_high().unwrap_err();
            assert!(error.to_string().contains("line 3: "), "{error}");
        }
    }
}
