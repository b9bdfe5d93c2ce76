//! Bosch BME280 and BMP280, by the driver that is on crates.io, as it is there.
//!
//! Each poll sets the sensor up anew and takes one measurement: no filter of the chip, which would begin anew each time as well,
//! and no sampling beyond the one that Bosch recommends for weather (datasheet 3.5.1). On I²C alone: by SPI version 0.5 of the
//! driver takes the byte that comes with the register's number for the first one of the answer.

use core::fmt::Debug;

use bme280::{Error, Measurements};
use embedded_hal::delay::DelayNs;
use tidegate_sdk::{Delay, Fault, I2c, Quality, Readings, settings};

tidegate_sdk::driver!(poll);

/// The name under which the source hands in the bus.
const NAME: &str = "sensor";
/// Where the driver cuts what the sensor cannot measure (datasheet 1).
const TEMPERATURE: (f32, f32) = (-40.0, 85.0);
const PRESSURE: (f32, f32) = (30_000.0, 110_000.0);

/// Reads the sensor once.
pub fn poll(out: &mut Readings) -> Result<(), Fault> {
    let humidity = settings::boolean("humidity").unwrap_or(true);
    let bus = I2c::named(NAME);
    let address = bus
        .address()
        .map_err(|_| "the source hands in no I²C bus `sensor`")?;
    measure(bus, address, &mut Delay, humidity, out)
}

fn measure<B: embedded_hal::i2c::I2c>(
    bus: B,
    address: u8,
    delay: &mut impl DelayNs,
    humidity: bool,
    out: &mut Readings,
) -> Result<(), Fault> {
    let mut sensor = bme280::i2c::BME280::new(bus, address);
    let config = bme280::Configuration::default();
    sensor.init_with_config(delay, config).map_err(told)?;
    add(&sensor.measure(delay).map_err(told)?, humidity, out);
    Ok(())
}

fn add<E>(measured: &Measurements<E>, humidity: bool, out: &mut Readings) {
    // Of what lies at an end of the range only that is known.
    let judged = |value: f32, (least, most): (f32, f32)| match value > least && value < most {
        true => Quality::Good,
        false => Quality::Uncertain,
    };
    let (temperature, pressure) = (measured.temperature, measured.pressure);
    let quality = judged(temperature, TEMPERATURE);
    out.add("temperature", rounded(temperature, 100.0), quality);
    let quality = judged(pressure, PRESSURE);
    out.add("pressure", rounded(pressure / 100.0, 100.0), quality);
    if humidity {
        out.add("humidity", rounded(measured.humidity, 100.0), Quality::Good);
    }
}

/// To hundredths of a degree, a percent and a hectopascal, which is what the sensor resolves.
fn rounded(value: f32, parts: f64) -> f64 {
    (f64::from(value) * parts).round() / parts
}

fn told<E: Debug>(error: Error<E>) -> Fault {
    match error {
        Error::Bus(error) => format!("the bus: {error:?}").into(),
        Error::UnsupportedChip => "what answers is no BME280 and no BMP280".into(),
        Error::CompensationFailed
        | Error::InvalidData
        | Error::NoCalibrationData
        | Error::Delay => format!("the sensor: {error:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

    use super::*;

    const ADDRESS: u8 = 0x76;
    /// The example of Bosch's BMP280 datasheet 3.12: 25.08 °C and 100653.27 Pa. The humidity's part is that of a sensor at hand.
    const PT: [u8; 26] = [
        0x70, 0x6B, 0x43, 0x67, 0x18, 0xFC, 0x7D, 0x8E, 0x43, 0xD6, 0xD0, 0x0B, 0x27, 0x0B, 0x8C,
        0x00, 0xF9, 0xFF, 0x8C, 0x3C, 0xF8, 0xC6, 0x70, 0x17, 0x00, 0x4B,
    ];
    const H: [u8; 7] = [0x72, 0x01, 0x00, 0x13, 0x29, 0x03, 0x1E];
    const DATA: [u8; 8] = [0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x75, 0x30];

    fn read(register: u8, bytes: &[u8]) -> Transaction {
        Transaction::write_read(ADDRESS, vec![register], bytes.to_vec())
    }

    fn write(register: u8, byte: u8) -> Transaction {
        Transaction::write(ADDRESS, vec![register, byte])
    }

    fn traffic() -> Vec<Transaction> {
        vec![
            read(0xD0, &[0x60]),
            write(0xE0, 0xB6),
            read(0x88, &PT),
            read(0xE1, &H),
            read(0xF4, &[0]),
            write(0xF2, 1),
            read(0xF4, &[0]),
            write(0xF4, 0x24),
            read(0xF5, &[0]),
            write(0xF5, 0),
            read(0xF4, &[0x24]),
            read(0xF4, &[0x24]),
            write(0xF4, 0x25),
            read(0xF7, &DATA),
        ]
    }

    fn rows(out: Readings) -> Vec<(String, f64, Quality)> {
        let batch = out.finish();
        let number = |row: tidegate_sdk::Row<'_>| row.number().unwrap();
        let row =
            |row: tidegate_sdk::Row<'_>| (row.series().to_owned(), number(row), row.quality());
        batch.rows().map(row).collect()
    }

    #[test]
    fn the_traffic_of_one_measurement() {
        let mut bus = Mock::new(&traffic());
        let mut out = Readings::default();
        measure(&mut bus, ADDRESS, &mut NoopDelay, true, &mut out).unwrap();
        bus.done();
        let [temperature, pressure, humidity] = rows(out).try_into().unwrap();
        assert_eq!(
            temperature,
            ("temperature".to_owned(), 25.08, Quality::Good)
        );
        assert_eq!(pressure, ("pressure".to_owned(), 1006.53, Quality::Good));
        // By Bosch's formula in integers (BME280 datasheet 4.2.3); the driver's is in floats.
        assert!((humidity.1 - 56.203).abs() < 0.02, "{humidity:?}");
    }

    #[test]
    fn a_sensor_that_is_not_there_and_one_of_another_kind() {
        let nobody = embedded_hal::i2c::ErrorKind::NoAcknowledge(
            embedded_hal::i2c::NoAcknowledgeSource::Address,
        );
        for (first, expect) in [
            (read(0xD0, &[0]).with_error(nobody), "NoAcknowledge"),
            (read(0xD0, &[0x55]), "is no BME280"),
        ] {
            let mut bus = Mock::new(&[first]);
            let mut out = Readings::default();
            let fault = measure(&mut bus, ADDRESS, &mut NoopDelay, true, &mut out).unwrap_err();
            bus.done();
            assert!(format!("{fault:?}").contains(expect), "{fault:?}");
            assert_eq!(rows(out), []);
        }
    }
}
