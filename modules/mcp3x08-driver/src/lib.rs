//! Microchip MCP3204/3208 (12 bits) and MCP3004/3008 (10 bits): analog-digital converters on SPI.
//!
//! What crates.io has for them needs embedded-hal before 1.0 or a Raspberry Pi; the protocol is three bytes
//! (datasheets DS21298 figure 6-1 and DS21295 figure 6-1).

use embedded_hal::spi::SpiDevice;
use tidegate_sdk::{Fault, Quality, Readings, Spi, settings};

tidegate_sdk::driver!(poll);

/// The name under which the source hands in the device.
const NAME: &str = "adc";

/// Reads every channel once.
pub fn poll(out: &mut Readings) -> Result<(), Fault> {
    let bits = match settings::integer("bits") {
        Some(10) => Bits::Ten,
        _ => Bits::Twelve,
    };
    let channels: Vec<u8> = settings::numbers("channels")
        .iter()
        .filter_map(|channel| (0..8).find(|number| f64::from(*number) == *channel))
        .collect();
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    let channels = if channels.is_empty() {
        &all[..]
    } else {
        &channels
    };
    let reference = settings::number("reference").unwrap_or(3.3);
    read(Spi::named(NAME), bits, channels, reference, out)
}

#[derive(Clone, Copy)]
enum Bits {
    Ten,
    Twelve,
}

fn read<D: SpiDevice>(
    mut device: D,
    bits: Bits,
    channels: &[u8],
    reference: f64,
    out: &mut Readings,
) -> Result<(), Fault> {
    for &channel in channels {
        let mut bytes = request(bits, channel);
        device
            .transfer_in_place(&mut bytes)
            .map_err(|error| format!("channel {channel}: {error:?}"))?;
        let (raw, steps) = answer(bits, bytes);
        let name = format!("channel{channel}");
        match raw {
            Some(raw) => {
                let volts = f64::from(raw) * reference / f64::from(steps);
                // The highest number means that much or more.
                let quality = match raw + 1 < steps {
                    true => Quality::Good,
                    false => Quality::Uncertain,
                };
                out.add(&name, volts, quality);
            }
            None => {
                out.add(&name, f64::NAN, Quality::Bad);
            }
        }
    }
    Ok(())
}

/// A start bit, "against ground", and the channel, so that the answer ends with the third byte.
fn request(bits: Bits, channel: u8) -> [u8; 3] {
    match bits {
        Bits::Ten => [1, 0x80 | channel << 4, 0],
        Bits::Twelve => [6 | channel >> 2, channel << 6, 0],
    }
}

/// The number, and how many there are. The converter pulls the line low for one bit before it: where nothing does, it is not there.
fn answer(bits: Bits, [_, high, low]: [u8; 3]) -> (Option<u16>, u16) {
    let (null, steps) = match bits {
        Bits::Ten => (0x04, 1 << 10),
        Bits::Twelve => (0x10, 1 << 12),
    };
    let number = u16::from_be_bytes([high & (null - 1), low]);
    ((high & null == 0).then_some(number), steps)
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::spi::{Mock, Transaction};

    use super::*;

    fn rows(
        bits: Bits,
        channels: &[u8],
        traffic: &[([u8; 3], [u8; 3])],
    ) -> Vec<(String, Option<f64>, Quality)> {
        let traffic: Vec<Transaction<u8>> = traffic
            .iter()
            .flat_map(|(sent, came)| {
                [
                    Transaction::transaction_start(),
                    Transaction::transfer_in_place(sent.to_vec(), came.to_vec()),
                    Transaction::transaction_end(),
                ]
            })
            .collect();
        let mut device = Mock::new(&traffic);
        let mut out = Readings::default();
        read(&mut device, bits, channels, 4.096, &mut out).unwrap();
        device.done();
        let batch = out.finish();
        batch
            .rows()
            .map(|row| (row.series().to_owned(), row.number(), row.quality()))
            .collect()
    }

    /// Requests as the datasheets draw them.
    #[test]
    fn twelve_bits() {
        let rows = rows(
            Bits::Twelve,
            &[0, 5, 7, 1],
            &[
                ([0x06, 0x00, 0], [0xFF, 0xE3, 0xE8]),
                ([0x07, 0x40, 0], [0xFF, 0xE0, 0x00]),
                ([0x07, 0xC0, 0], [0xFF, 0xEF, 0xFF]),
                // Nothing is connected: the line stays high.
                ([0x06, 0x40, 0], [0xFF, 0xFF, 0xFF]),
            ],
        );
        assert_eq!(
            rows,
            [
                ("channel0".to_owned(), Some(1.0), Quality::Good),
                ("channel5".to_owned(), Some(0.0), Quality::Good),
                ("channel7".to_owned(), Some(4.095), Quality::Uncertain),
                ("channel1".to_owned(), None, Quality::Bad),
            ]
        );
    }

    #[test]
    fn ten_bits() {
        let rows = rows(Bits::Ten, &[3], &[([0x01, 0xB0, 0], [0, 0xFA, 0x00])]);
        assert_eq!(rows, [("channel3".to_owned(), Some(2.048), Quality::Good)]);
    }
}
