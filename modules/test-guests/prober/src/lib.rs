//! A driver that reaches for what it was handed and for what it was not, tells what came of each, and counts its polls.

use embedded_hal::digital::{InputPin, OutputPin};
use embedded_hal::i2c::I2c as _;
use embedded_hal::spi::SpiDevice;
use tidegate_sdk::{BusError, Fault, I2c, Pin, Quality, Readings, Spi, global_state, settings};

tidegate_sdk::driver!(poll);

const HANDED: u8 = 0x76;

fn poll(out: &mut Readings) -> Result<(), Fault> {
    if settings::text("todo").as_deref() == Some("trap") {
        // What Rust makes of a panic, too.
        std::process::abort();
    }
    let mut tell = |series: &str, came: Result<String, BusError>| {
        let text = came.unwrap_or_else(|error| format!("{error:?}"));
        out.add(series, text.as_str(), Quality::Good);
    };
    let mut register = [0];
    let mut read = |bus: &str, address: u8| {
        let came = I2c::named(bus).write_read(address, &[0xD0], &mut register);
        came.map(|()| register[0].to_string())
    };
    tell("granted", read("sensor", HANDED));
    tell("address", read("sensor", HANDED + 1));
    tell("bus", read("other", HANDED));
    let mut button = Pin::named("button");
    tell("line", button.is_high().map(|high| high.to_string()));
    tell("output", button.set_high().map(|()| "set".to_owned()));
    let came = Spi::named("adc").transfer_in_place(&mut [0; 3]);
    tell("spi", came.map(|()| "read".to_owned()));
    let before = global_state::get("polls").and_then(|bytes| bytes.try_into().ok());
    let polls = before.map_or(0, u64::from_le_bytes) + 1;
    global_state::set("polls", &polls.to_le_bytes())?;
    out.add(
        "polls",
        i64::try_from(polls).unwrap_or(i64::MAX),
        Quality::Good,
    );
    Ok(())
}
