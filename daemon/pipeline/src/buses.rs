//! The buses that a driver is handed: embedded-hal devices by name, each with what may be done with it, and the bounds of a poll.
//!
//! Whatever implements embedded-hal can be handed in: the kernel's devices (`daemon/ingest/src/bus`), and simulated ones.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use embedded_hal::{digital, i2c, spi};
use embedded_io as io;

use crate::grants::Grant;

/// Bytes that one poll may move over all of its buses, both ways together.
const POLL_BYTES: usize = 256 * 1024;
/// Calls of buses in one poll.
const POLL_CALLS: u32 = 4096;
/// Different refusals of one poll that are told.
const REFUSALS: usize = 16;

/// What kept a bus from doing what was asked. The names are those of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract says it: modules/wit/0.2.0")]
pub enum BusErrorKind {
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

/// The same with words for people.
#[derive(Clone, Debug)]
struct Failed {
    kind: BusErrorKind,
    text: String,
}

impl i2c::Error for Failed {
    fn kind(&self) -> i2c::ErrorKind {
        i2c::ErrorKind::Other
    }
}

impl spi::Error for Failed {
    fn kind(&self) -> spi::ErrorKind {
        spi::ErrorKind::Other
    }
}

impl digital::Error for Failed {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failed {}

impl io::Error for Failed {
    fn kind(&self) -> io::ErrorKind {
        io::ErrorKind::Other
    }
}

/// A device whose own type of error is forgotten.
struct Erased<D>(D);

impl<D: i2c::ErrorType> i2c::ErrorType for Erased<D> {
    type Error = Failed;
}

impl<D: i2c::I2c> i2c::I2c for Erased<D> {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [i2c::Operation<'_>],
    ) -> Result<(), Failed> {
        self.0
            .transaction(address, operations)
            .map_err(|error| Failed {
                kind: match i2c::Error::kind(&error) {
                    i2c::ErrorKind::Bus => BusErrorKind::Bus,
                    i2c::ErrorKind::ArbitrationLoss => BusErrorKind::ArbitrationLoss,
                    i2c::ErrorKind::NoAcknowledge(_) => BusErrorKind::NoAcknowledge,
                    i2c::ErrorKind::Overrun => BusErrorKind::Overrun,
                    i2c::ErrorKind::Other | _ => BusErrorKind::Other,
                },
                text: format!("{error:?}"),
            })
    }
}

/// SPI devices have a name for it of their own, since a type may be both.
struct ErasedSpi<D>(D);

impl<D: spi::ErrorType> spi::ErrorType for ErasedSpi<D> {
    type Error = Failed;
}

impl<D: spi::SpiDevice> spi::SpiDevice for ErasedSpi<D> {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), Failed> {
        self.0.transaction(operations).map_err(|error| Failed {
            kind: match spi::Error::kind(&error) {
                spi::ErrorKind::Overrun => BusErrorKind::Overrun,
                spi::ErrorKind::ModeFault => BusErrorKind::ModeFault,
                spi::ErrorKind::FrameFormat => BusErrorKind::FrameFormat,
                spi::ErrorKind::ChipSelectFault | spi::ErrorKind::Other | _ => BusErrorKind::Other,
            },
            text: format!("{error:?}"),
        })
    }
}

fn of_pin<E: digital::Error>(error: &E) -> Failed {
    Failed {
        kind: BusErrorKind::Other,
        text: format!("{error:?}"),
    }
}

fn of_port<E: io::Error>(error: &E) -> Failed {
    let kind = io::Error::kind(error);
    Failed {
        kind: if kind == io::ErrorKind::InvalidData {
            BusErrorKind::FrameFormat
        } else if kind == io::ErrorKind::OutOfMemory {
            BusErrorKind::Overrun
        } else {
            BusErrorKind::Other
        },
        text: error.to_string(),
    }
}

/// A serial line.
trait Line: Send {
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Failed>;
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failed>;
}

impl<P: io::Read + io::Write + Send> Line for P {
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Failed> {
        self.read(buffer).map_err(|error| of_port(&error))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let written = self.write_all(bytes).map_err(|error| of_port(&error));
        written.and_then(|()| self.flush().map_err(|error| of_port(&error)))
    }
}

enum Device {
    I2c {
        address: u8,
        bus: Box<dyn i2c::I2c<Error = Failed> + Send>,
    },
    Spi(Box<dyn spi::SpiDevice<Error = Failed> + Send>),
    Input(Box<dyn FnMut() -> Result<bool, Failed> + Send>),
    Output(Box<dyn FnMut(bool) -> Result<(), Failed> + Send>),
    Uart(Box<dyn Line>),
}

impl Device {
    fn grant(&self) -> Grant {
        match self {
            Self::I2c { .. } => Grant::I2c,
            Self::Spi(_) => Grant::Spi,
            Self::Input(_) | Self::Output(_) => Grant::Gpio,
            Self::Uart(_) => Grant::Uart,
        }
    }
}

/// What a driver is handed, by name.
#[derive(Default)]
pub struct Buses(BTreeMap<(Grant, String), Device>);

impl fmt::Debug for Buses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Buses {
    fn hand(&mut self, name: &str, device: Device) {
        self.0.insert((device.grant(), name.to_owned()), device);
    }

    /// An I²C bus, for this address alone.
    pub fn i2c(&mut self, name: &str, address: u8, bus: impl i2c::I2c + Send + 'static) {
        let bus = Box::new(Erased(bus));
        self.hand(name, Device::I2c { address, bus });
    }

    /// A device on SPI.
    pub fn spi(&mut self, name: &str, device: impl spi::SpiDevice + Send + 'static) {
        self.hand(name, Device::Spi(Box::new(ErasedSpi(device))));
    }

    /// A line that is read.
    pub fn input(&mut self, name: &str, mut pin: impl digital::InputPin + Send + 'static) {
        let read = move || pin.is_high().map_err(|error| of_pin(&error));
        self.hand(name, Device::Input(Box::new(read)));
    }

    /// A line that is set.
    pub fn output(&mut self, name: &str, mut pin: impl digital::OutputPin + Send + 'static) {
        let set = move |high| {
            let state = digital::PinState::from(high);
            pin.set_state(state).map_err(|error| of_pin(&error))
        };
        self.hand(name, Device::Output(Box::new(set)));
    }

    /// A serial line.
    pub fn uart(&mut self, name: &str, port: impl io::Read + io::Write + Send + 'static) {
        self.hand(name, Device::Uart(Box::new(port)));
    }

    /// The grants that what is handed in stands for.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        let mut grants: Vec<Grant> = self.0.keys().map(|(grant, _)| *grant).collect();
        grants.dedup();
        grants
    }
}

/// Something that a driver reached for and was not handed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BusRefusal {
    /// Which kind of bus.
    pub bus: Grant,
    /// The name that it used.
    pub name: String,
    /// What it wanted there, where the name was right: an address, or to set an input.
    pub wanted: Option<String>,
}

impl fmt::Display for BusRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.bus, self.name)?;
        match &self.wanted {
            Some(wanted) => write!(f, ", {wanted}"),
            None => Ok(()),
        }
    }
}

/// A poll took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the poll took longer than the source's `timeout` of {} ms", .0.as_millis())]
pub(crate) struct PollTime(Duration);

/// What a driver asked a bus for that means nothing, or ends it.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It is told so, and goes on.
    Told(BusErrorKind),
    /// It is ended.
    Ended(PollTime),
}

/// The buses of one poll, with its bounds.
#[derive(Debug)]
pub(crate) struct PollBuses {
    buses: Buses,
    began: Instant,
    timeout: Duration,
    bytes: usize,
    calls: u32,
    /// Each once.
    refusals: Vec<BusRefusal>,
    /// What a device said last that did not do what it was asked.
    fault: Option<String>,
}

/// One step of a transaction; what is read is put back into it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read(Vec<u8>),
    Write(Vec<u8>),
    Transfer(Vec<u8>),
    Delay(u32),
}

impl PollBuses {
    pub(crate) fn new(buses: Buses, timeout: Duration) -> Self {
        Self {
            buses,
            began: Instant::now(),
            timeout,
            bytes: POLL_BYTES,
            calls: POLL_CALLS,
            refusals: Vec::new(),
            fault: None,
        }
    }

    /// The buses again, what was refused, and what a device said last.
    pub(crate) fn finish(self) -> (Buses, Vec<BusRefusal>, Option<String>) {
        (self.buses, self.refusals, self.fault)
    }

    pub(crate) fn address(&mut self, name: &str) -> Option<u16> {
        match self.buses.0.get(&(Grant::I2c, name.to_owned())) {
            Some(Device::I2c { address, .. }) => Some(u16::from(*address)),
            Some(_) | None => {
                self.note(Grant::I2c, name, None);
                None
            }
        }
    }

    /// Waits, within the time of the poll.
    pub(crate) fn delay(&self, time: Duration) -> Result<(), PollTime> {
        let left = self.timeout.saturating_sub(self.began.elapsed());
        if time > left {
            return Err(PollTime(self.timeout));
        }
        std::thread::sleep(time);
        Ok(())
    }

    pub(crate) fn i2c(&mut self, name: &str, to: u16, steps: &mut [Step]) -> Result<(), Denied> {
        self.enter(steps.iter().map(Step::bytes).sum())?;
        let Some(Device::I2c { address, bus }) = self.buses.0.get_mut(&key(Grant::I2c, name))
        else {
            return self.refuse(Grant::I2c, name, None);
        };
        if to != u16::from(*address) {
            let wanted = format!("address 0x{to:02x}; 0x{address:02x} is handed in");
            return self.refuse(Grant::I2c, name, Some(wanted));
        }
        let address = *address;
        let mut operations: Vec<i2c::Operation<'_>> = Vec::with_capacity(steps.len());
        for step in steps {
            operations.push(match step {
                Step::Read(buffer) => i2c::Operation::Read(buffer),
                Step::Write(bytes) => i2c::Operation::Write(bytes),
                // I²C has neither.
                Step::Transfer(_) | Step::Delay(_) => {
                    return Err(Denied::Told(BusErrorKind::Other));
                }
            });
        }
        let done = bus.transaction(address, &mut operations);
        self.done(done, Grant::I2c, name)
    }

    pub(crate) fn spi(&mut self, name: &str, steps: &mut [Step]) -> Result<(), Denied> {
        self.enter(steps.iter().map(Step::bytes).sum())?;
        let left = self.timeout.saturating_sub(self.began.elapsed());
        let delays = steps.iter().map(|step| match step {
            Step::Delay(time) => Duration::from_nanos(u64::from(*time)),
            Step::Read(_) | Step::Write(_) | Step::Transfer(_) => Duration::ZERO,
        });
        if delays.sum::<Duration>() > left {
            return Err(Denied::Ended(PollTime(self.timeout)));
        }
        let Some(Device::Spi(device)) = self.buses.0.get_mut(&key(Grant::Spi, name)) else {
            return self.refuse(Grant::Spi, name, None);
        };
        let mut operations: Vec<spi::Operation<'_, u8>> = steps
            .iter_mut()
            .map(|step| match step {
                Step::Read(buffer) => spi::Operation::Read(buffer),
                Step::Write(bytes) => spi::Operation::Write(bytes),
                Step::Transfer(buffer) => spi::Operation::TransferInPlace(buffer),
                Step::Delay(time) => spi::Operation::DelayNs(*time),
            })
            .collect();
        let done = device.transaction(&mut operations);
        self.done(done, Grant::Spi, name)
    }

    pub(crate) fn is_high(&mut self, name: &str) -> Result<bool, Denied> {
        self.enter(1)?;
        // What an output is set to is the driver's own knowledge.
        let (high, done) = match self.buses.0.get_mut(&key(Grant::Gpio, name)) {
            Some(Device::Input(read)) => match read() {
                Ok(high) => (high, Ok(())),
                Err(error) => (false, Err(error)),
            },
            Some(Device::Output(_)) => {
                let wanted = Some("to read an output".to_owned());
                return self.refuse(Grant::Gpio, name, wanted).map(|()| false);
            }
            Some(_) | None => return self.refuse(Grant::Gpio, name, None).map(|()| false),
        };
        self.done(done, Grant::Gpio, name).map(|()| high)
    }

    pub(crate) fn set_high(&mut self, name: &str, high: bool) -> Result<(), Denied> {
        self.enter(1)?;
        let done = match self.buses.0.get_mut(&key(Grant::Gpio, name)) {
            Some(Device::Output(set)) => set(high),
            Some(Device::Input(_)) => {
                return self.refuse(Grant::Gpio, name, Some("to set an input".to_owned()));
            }
            Some(_) | None => return self.refuse(Grant::Gpio, name, None),
        };
        self.done(done, Grant::Gpio, name)
    }

    pub(crate) fn receive(&mut self, name: &str, most: u32) -> Result<Vec<u8>, Denied> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.bytes);
        self.enter(most)?;
        let mut buffer = vec![0; most];
        let Some(Device::Uart(line)) = self.buses.0.get_mut(&key(Grant::Uart, name)) else {
            return self.refuse(Grant::Uart, name, None).map(|()| Vec::new());
        };
        let done = line.take(&mut buffer).map(|count| {
            // What did not come counts no more.
            self.bytes += most.saturating_sub(count);
            buffer.truncate(count);
        });
        self.done(done, Grant::Uart, name).map(|()| buffer)
    }

    pub(crate) fn send(&mut self, name: &str, bytes: &[u8]) -> Result<(), Denied> {
        self.enter(bytes.len())?;
        let Some(Device::Uart(line)) = self.buses.0.get_mut(&key(Grant::Uart, name)) else {
            return self.refuse(Grant::Uart, name, None);
        };
        let done = line.put(bytes);
        self.done(done, Grant::Uart, name)
    }

    /// Counts a call of a bus.
    fn enter(&mut self, bytes: usize) -> Result<(), Denied> {
        if self.began.elapsed() >= self.timeout {
            return Err(Denied::Ended(PollTime(self.timeout)));
        }
        let (Some(bytes), Some(calls)) = (self.bytes.checked_sub(bytes), self.calls.checked_sub(1))
        else {
            return Err(Denied::Told(BusErrorKind::TooLong));
        };
        (self.bytes, self.calls) = (bytes, calls);
        Ok(())
    }

    fn refuse(&mut self, bus: Grant, name: &str, wanted: Option<String>) -> Result<(), Denied> {
        self.note(bus, name, wanted);
        Err(Denied::Told(BusErrorKind::NotGranted))
    }

    fn note(&mut self, bus: Grant, name: &str, wanted: Option<String>) {
        let name = crate::contract::cut(name.to_owned(), 64);
        let refusal = BusRefusal { bus, name, wanted };
        if self.refusals.len() < REFUSALS && !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    fn done(&mut self, done: Result<(), Failed>, bus: Grant, name: &str) -> Result<(), Denied> {
        done.map_err(|error| {
            self.fault = Some(format!("{bus} `{name}`: {}", error.text));
            Denied::Told(error.kind)
        })
    }
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Self::Read(bytes) | Self::Write(bytes) | Self::Transfer(bytes) => bytes.len(),
            Self::Delay(_) => 0,
        }
    }
}

fn key(grant: Grant, name: &str) -> (Grant, String) {
    (grant, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the address's own bytes.
    struct Echo;

    #[derive(Debug)]
    struct Nobody;

    impl i2c::Error for Nobody {
        fn kind(&self) -> i2c::ErrorKind {
            i2c::ErrorKind::NoAcknowledge(i2c::NoAcknowledgeSource::Address)
        }
    }

    impl i2c::ErrorType for Echo {
        type Error = Nobody;
    }

    impl i2c::I2c for Echo {
        fn transaction(
            &mut self,
            address: u8,
            operations: &mut [i2c::Operation<'_>],
        ) -> Result<(), Nobody> {
            for operation in operations {
                match operation {
                    i2c::Operation::Read(buffer) => buffer.fill(address),
                    i2c::Operation::Write([0xFF]) => return Err(Nobody),
                    i2c::Operation::Write(_) => {}
                }
            }
            Ok(())
        }
    }

    fn poll() -> PollBuses {
        let mut buses = Buses::default();
        buses.i2c("sensor", 0x76, Echo);
        PollBuses::new(buses, Duration::from_secs(60))
    }

    #[test]
    fn only_the_address_that_is_handed_in_is_talked_to() {
        let mut poll = poll();
        let mut steps = [Step::Write(vec![1]), Step::Read(vec![0; 2])];
        poll.i2c("sensor", 0x76, &mut steps).unwrap();
        assert_eq!(steps[1], Step::Read(vec![0x76; 2]));
        assert_eq!(poll.address("sensor"), Some(0x76));
        for (name, address) in [("sensor", 0x77), ("sensor", 0x176), ("other", 0x76)] {
            for _ in 0..2 {
                let denied = poll.i2c(name, address, &mut [Step::Read(vec![0; 1])]);
                assert!(
                    matches!(denied, Err(Denied::Told(BusErrorKind::NotGranted))),
                    "{name} {address}: {denied:?}"
                );
            }
        }
        assert!(matches!(
            poll.set_high("sensor", true),
            Err(Denied::Told(BusErrorKind::NotGranted))
        ));
        let told: Vec<String> = poll.finish().1.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "i2c `sensor`, address 0x77; 0x76 is handed in",
                "i2c `sensor`, address 0x176; 0x76 is handed in",
                "i2c `other`",
                "gpio `sensor`",
            ]
        );
    }

    #[test]
    fn what_a_device_says_is_told_and_kept() {
        let mut poll = poll();
        let denied = poll.i2c("sensor", 0x76, &mut [Step::Write(vec![0xFF])]);
        assert!(matches!(
            denied,
            Err(Denied::Told(BusErrorKind::NoAcknowledge))
        ));
        assert_eq!(poll.finish().2.as_deref(), Some("i2c `sensor`: Nobody"));
    }

    #[test]
    fn bytes_calls_and_time_are_bounded() {
        let mut poll = poll();
        let too_long = |denied| matches!(denied, Err(Denied::Told(BusErrorKind::TooLong)));
        let much = &mut [Step::Read(vec![0; POLL_BYTES + 1])];
        assert!(too_long(poll.i2c("sensor", 0x76, much)));
        for _ in 0..POLL_CALLS {
            poll.i2c("sensor", 0x76, &mut []).unwrap();
        }
        assert!(too_long(poll.i2c("sensor", 0x76, &mut [])));
        let mut short = PollBuses::new(Buses::default(), Duration::ZERO);
        assert!(short.delay(Duration::from_nanos(1)).is_err());
        assert!(matches!(short.is_high("x"), Err(Denied::Ended(_))));
    }
}
