//! From a function to a driver: buses in, readings out.
//!
//! The buses are embedded-hal's: what is written for any microcontroller runs here, and is tested against a mock.

use embedded_hal::delay::DelayNs;
use embedded_hal::{digital, i2c, spi};

use crate::SERIES_NAME_BYTES;
use crate::batch::{Batch, Quality, Value};
use crate::filter::Fault;
use crate::output::Names;

#[cfg(target_arch = "wasm32")]
use crate::driver_bindings::tidegate::module as host;

/// What a poll brought. The series are below the source's name, and the time is the poll's.
#[derive(Default)]
pub struct Readings {
    batch: Batch,
    names: Names,
}

impl Readings {
    /// Adds a reading. False, and nothing done, where the name is empty or longer than [`SERIES_NAME_BYTES`].
    pub fn add<'v>(&mut self, series: &str, value: impl Into<Value<'v>>, quality: Quality) -> bool {
        if series.is_empty() || series.len() > SERIES_NAME_BYTES {
            return false;
        }
        let series = self.names.intern(series.to_owned());
        self.batch.push(series, 0, value.into(), quality);
        true
    }

    /// What was added: for tests, and for the gateway.
    #[must_use]
    pub fn finish(self) -> Batch {
        Batch {
            names: self.names.names,
            ..self.batch
        }
    }
}

/// What the [`driver!`](crate::driver!) macro takes.
pub trait Driver: Fn(&mut Readings) -> Result<(), Fault> {}

impl<F: Fn(&mut Readings) -> Result<(), Fault>> Driver for F {}

/// Lets the compiler say early, and in the driver's own file, that a function is none.
#[doc(hidden)]
pub const fn is_driver<F: Driver>(_: &F) {}

/// What kept a bus from doing what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract says it: modules/wit/0.2.0")]
pub enum BusError {
    NotGranted,
    NoAcknowledge,
    ArbitrationLoss,
    Bus,
    Overrun,
    ModeFault,
    FrameFormat,
    TooLong,
    Other,
}

impl core::fmt::Display for BusError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotGranted => "the source does not hand this in",
            Self::NoAcknowledge => "nothing answers",
            Self::ArbitrationLoss => "another master was faster",
            Self::Bus => "the bus is in a wrong state",
            Self::Overrun => "more came than there was room for",
            Self::ModeFault => "something else asserts the chip select",
            Self::FrameFormat => "what came is damaged",
            Self::TooLong => "more bytes than a call may move",
            Self::Other => "the gateway cannot use the device",
        })
    }
}

impl core::error::Error for BusError {}

impl i2c::Error for BusError {
    fn kind(&self) -> i2c::ErrorKind {
        match self {
            Self::NoAcknowledge => i2c::ErrorKind::NoAcknowledge(i2c::NoAcknowledgeSource::Unknown),
            Self::ArbitrationLoss => i2c::ErrorKind::ArbitrationLoss,
            Self::Bus => i2c::ErrorKind::Bus,
            Self::Overrun => i2c::ErrorKind::Overrun,
            Self::NotGranted
            | Self::ModeFault
            | Self::FrameFormat
            | Self::TooLong
            | Self::Other => i2c::ErrorKind::Other,
        }
    }
}

impl spi::Error for BusError {
    fn kind(&self) -> spi::ErrorKind {
        match self {
            Self::Overrun => spi::ErrorKind::Overrun,
            Self::ModeFault => spi::ErrorKind::ModeFault,
            Self::FrameFormat => spi::ErrorKind::FrameFormat,
            Self::NotGranted
            | Self::NoAcknowledge
            | Self::ArbitrationLoss
            | Self::Bus
            | Self::TooLong
            | Self::Other => spi::ErrorKind::Other,
        }
    }
}

impl digital::Error for BusError {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

impl embedded_io::Error for BusError {
    fn kind(&self) -> embedded_io::ErrorKind {
        match self {
            Self::NotGranted => embedded_io::ErrorKind::PermissionDenied,
            Self::NoAcknowledge
            | Self::ArbitrationLoss
            | Self::Bus
            | Self::Overrun
            | Self::ModeFault
            | Self::FrameFormat
            | Self::TooLong
            | Self::Other => embedded_io::ErrorKind::Other,
        }
    }
}

#[cfg(target_arch = "wasm32")]
impl From<host::buses::Error> for BusError {
    fn from(error: host::buses::Error) -> Self {
        match error {
            host::buses::Error::NotGranted => Self::NotGranted,
            host::buses::Error::NoAcknowledge => Self::NoAcknowledge,
            host::buses::Error::ArbitrationLoss => Self::ArbitrationLoss,
            host::buses::Error::Bus => Self::Bus,
            host::buses::Error::Overrun => Self::Overrun,
            host::buses::Error::ModeFault => Self::ModeFault,
            host::buses::Error::FrameFormat => Self::FrameFormat,
            host::buses::Error::TooLong => Self::TooLong,
            host::buses::Error::Other => Self::Other,
        }
    }
}

/// An I²C bus that the source hands in by name, as [`embedded_hal::i2c::I2c`]. Grant `i2c`.
///
/// Of this and the other buses every call is refused outside of a gateway: test the function that talks to the device on
/// `embedded-hal-mock`.
#[derive(Clone, Debug)]
pub struct I2c {
    name: String,
}

impl I2c {
    /// The bus of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The address that the source hands in with it: the only one that may be talked to.
    ///
    /// # Errors
    /// The source hands in no bus of this name.
    pub fn address(&self) -> Result<u8, BusError> {
        #[cfg(target_arch = "wasm32")]
        let address = host::i2c::address(&self.name);
        #[cfg(not(target_arch = "wasm32"))]
        let address: Option<u16> = None;
        let address = address.and_then(|address| u8::try_from(address).ok());
        address.ok_or(BusError::NotGranted)
    }
}

impl i2c::ErrorType for I2c {
    type Error = BusError;
}

impl i2c::I2c for I2c {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [i2c::Operation<'_>],
    ) -> Result<(), BusError> {
        #[cfg(target_arch = "wasm32")]
        {
            let asked: Vec<host::i2c::Operation> = operations
                .iter()
                .map(|operation| match operation {
                    i2c::Operation::Read(buffer) => host::i2c::Operation::Read(length(buffer)),
                    i2c::Operation::Write(bytes) => host::i2c::Operation::Write(bytes.to_vec()),
                })
                .collect();
            let came = host::i2c::transaction(&self.name, u16::from(address), &asked)?;
            let reads = operations
                .iter_mut()
                .filter_map(|operation| match operation {
                    i2c::Operation::Read(buffer) => Some(&mut **buffer),
                    i2c::Operation::Write(_) => None,
                });
            fill(reads, came)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = (&self.name, address, operations);
            Err(BusError::NotGranted)
        }
    }
}

/// An SPI device that the source hands in by name, as [`embedded_hal::spi::SpiDevice`]. Grant `spi`.
#[derive(Clone, Debug)]
pub struct Spi {
    name: String,
}

impl Spi {
    /// The device of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

impl spi::ErrorType for Spi {
    type Error = BusError;
}

impl spi::SpiDevice for Spi {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), BusError> {
        #[cfg(target_arch = "wasm32")]
        {
            let asked: Vec<host::spi::Operation> = operations
                .iter()
                .map(|operation| match operation {
                    spi::Operation::Read(buffer) => host::spi::Operation::Read(length(buffer)),
                    spi::Operation::Write(bytes) => host::spi::Operation::Write(bytes.to_vec()),
                    // The longer one of the two decides; zeros stand for what is not to be sent.
                    spi::Operation::Transfer(buffer, bytes) => {
                        let mut bytes = bytes.to_vec();
                        bytes.resize(bytes.len().max(buffer.len()), 0);
                        host::spi::Operation::Transfer(bytes)
                    }
                    spi::Operation::TransferInPlace(buffer) => {
                        host::spi::Operation::Transfer(buffer.to_vec())
                    }
                    spi::Operation::DelayNs(time) => host::spi::Operation::Delay(*time),
                })
                .collect();
            let came = host::spi::transaction(&self.name, &asked)?;
            let reads = operations
                .iter_mut()
                .filter_map(|operation| match operation {
                    spi::Operation::Read(buffer)
                    | spi::Operation::Transfer(buffer, _)
                    | spi::Operation::TransferInPlace(buffer) => Some(&mut **buffer),
                    spi::Operation::Write(_) | spi::Operation::DelayNs(_) => None,
                });
            fill(reads, came)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = (&self.name, operations);
            Err(BusError::NotGranted)
        }
    }
}

/// A single line that the source hands in by name, as [`embedded_hal::digital::InputPin`] and
/// [`OutputPin`](embedded_hal::digital::OutputPin). Grant `gpio`.
#[derive(Clone, Debug)]
pub struct Pin {
    name: String,
}

impl Pin {
    /// The line of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    fn set(&self, high: bool) -> Result<(), BusError> {
        #[cfg(target_arch = "wasm32")]
        return host::gpio::set_high(&self.name, high).map_err(BusError::from);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = (&self.name, high);
            Err(BusError::NotGranted)
        }
    }
}

impl digital::ErrorType for Pin {
    type Error = BusError;
}

impl digital::InputPin for Pin {
    fn is_high(&mut self) -> Result<bool, BusError> {
        #[cfg(target_arch = "wasm32")]
        return host::gpio::is_high(&self.name).map_err(BusError::from);
        #[cfg(not(target_arch = "wasm32"))]
        Err(BusError::NotGranted)
    }

    fn is_low(&mut self) -> Result<bool, BusError> {
        self.is_high().map(|high| !high)
    }
}

impl digital::OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), BusError> {
        self.set(false)
    }

    fn set_high(&mut self) -> Result<(), BusError> {
        self.set(true)
    }
}

/// A serial line that the source hands in by name, as [`embedded_io::Read`] and [`Write`](embedded_io::Write). A read of no
/// bytes means that none came in time. Grant `uart`.
#[derive(Clone, Debug)]
pub struct Uart {
    name: String,
}

impl Uart {
    /// The line of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = BusError;
}

impl embedded_io::Read for Uart {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BusError> {
        #[cfg(target_arch = "wasm32")]
        {
            let came = host::uart::read(&self.name, length(buffer))?;
            let count = came.len().min(buffer.len());
            buffer[..count].copy_from_slice(&came[..count]);
            Ok(count)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = (&self.name, buffer);
            Err(BusError::NotGranted)
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, BusError> {
        #[cfg(target_arch = "wasm32")]
        {
            host::uart::write(&self.name, bytes)?;
            Ok(bytes.len())
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = bytes;
            Err(BusError::NotGranted)
        }
    }

    fn flush(&mut self) -> Result<(), BusError> {
        Ok(())
    }
}

/// Waiting, as [`embedded_hal::delay::DelayNs`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay;

impl Delay {
    fn wait(nanoseconds: u64) {
        #[cfg(target_arch = "wasm32")]
        host::buses::delay(nanoseconds);
        #[cfg(not(target_arch = "wasm32"))]
        std::thread::sleep(std::time::Duration::from_nanos(nanoseconds));
    }
}

impl DelayNs for Delay {
    fn delay_ns(&mut self, nanoseconds: u32) {
        Self::wait(u64::from(nanoseconds));
    }

    fn delay_us(&mut self, microseconds: u32) {
        Self::wait(u64::from(microseconds) * 1000);
    }

    fn delay_ms(&mut self, milliseconds: u32) {
        Self::wait(u64::from(milliseconds) * 1_000_000);
    }
}

#[cfg(target_arch = "wasm32")]
fn length(buffer: &[u8]) -> u32 {
    // Memory of a component has 32 bits.
    u32::try_from(buffer.len()).unwrap_or(u32::MAX)
}

/// Puts what came into the places that wait for it.
#[cfg(any(target_arch = "wasm32", test))]
fn fill<'a>(
    places: impl Iterator<Item = &'a mut [u8]>,
    came: Vec<Vec<u8>>,
) -> Result<(), BusError> {
    let mut came = came.into_iter();
    for place in places {
        let bytes = came.next().unwrap_or_default();
        let bytes = bytes.get(..place.len()).ok_or(BusError::Other)?;
        place.copy_from_slice(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_put_into_its_places_and_too_little_is_an_error() {
        let (mut one, mut two) = ([0; 2], [0; 1]);
        let mut put = |came: Vec<Vec<u8>>| {
            let done = fill([&mut one[..], &mut two[..]].into_iter(), came);
            done.map(|()| (one, two))
        };
        // A transfer that sent more than it wanted back.
        assert_eq!(put(vec![vec![1, 2], vec![3, 4]]), Ok(([1, 2], [3])));
        assert_eq!(put(vec![vec![1, 2]]), Err(BusError::Other));
    }

    #[test]
    fn readings_are_rows_and_names_are_bounded() {
        let mut readings = Readings::default();
        assert!(readings.add("temperature", 21.5, Quality::Good));
        assert!(readings.add("state", "idle", Quality::Uncertain));
        assert!(!readings.add("", 1.0, Quality::Good));
        assert!(!readings.add(&"x".repeat(513), 1.0, Quality::Good));
        let batch = readings.finish();
        let rows: Vec<_> = batch
            .rows()
            .map(|row| (row.series(), row.value(), row.quality()))
            .collect();
        assert_eq!(
            rows,
            [
                ("temperature", Value::Float(21.5), Quality::Good),
                ("state", Value::Text("idle"), Quality::Uncertain)
            ]
        );
    }
}
