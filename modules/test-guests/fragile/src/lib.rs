//! A decoder that misbehaves: on the payload `trap` it traps, on `endless` it never ends. Any other payload is a reading of
//! its topic: how many such messages there have been, out of state, with a note at the word `note`.

use tidegate_sdk::{Decoded, Fault, Messages, Quality, global_state};

tidegate_sdk::decoder!(fragile);

const KEY: &str = "count";

fn fragile(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let stored = global_state::get(KEY).and_then(|bytes| bytes.try_into().ok());
    let mut count = stored.map_or(0, i64::from_le_bytes);
    for message in messages.iter() {
        match message.payload() {
            // What Rust makes of a panic, too.
            b"trap" => std::process::abort(),
            b"endless" => loop {
                std::hint::black_box(count);
            },
            b"fault" => return Err(Fault::new("a fault was asked for")),
            b"note" => out.note("a note was asked for"),
            _ => {}
        }
        out.message(message, |rows| {
            if message.payload() == b"undecoded" {
                return Err("it was asked for".to_owned());
            }
            count += 1;
            rows.add(message.topic(), message.time(), count, Quality::Good)
        });
    }
    global_state::set(KEY, &count.to_le_bytes())
}
