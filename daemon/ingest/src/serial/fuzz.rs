//! What a serial line's bytes are turned over with: one function for the fuzz target in `tests/fuzz` and for the corpus,
//! which is replayed here.

use super::framing::{
    Checksum, Covers, Envelope, Escape, Framer, Framing, GARBAGE_BYTES, Heard, Width,
};

/// Bytes of the longest frame.
const MOST: usize = 64;

/// A stream of bytes from a line. The first byte chooses the framing, the second the pieces and where the line falls silent;
/// true where a frame came out.
///
/// # Panics
/// Where frames depend on the pieces that they come in, or more is held or handed over than the bounds say.
pub fn frames(input: &[u8]) -> bool {
    let [choice, cut, stream @ ..] = input else {
        return false;
    };
    let framing = framing(*choice);
    let size = usize::from(*cut % 16 + 1);
    // Every so many pieces the line falls silent.
    let silence = usize::from(*cut / 16) * size;
    let whole = hear(&framing, stream, silence, usize::MAX);
    let pieces = hear(&framing, stream, silence, size);
    assert_eq!(whole, pieces, "the pieces matter");
    for heard in &whole {
        match heard {
            Heard::Frame(frame) => assert!((1..=MOST).contains(&frame.len())),
            Heard::Garbage { bytes, .. } => assert!((1..=GARBAGE_BYTES).contains(&bytes.len())),
        }
    }
    whole.iter().any(|heard| matches!(heard, Heard::Frame(_)))
}

fn hear(framing: &Framing, stream: &[u8], silence: usize, size: usize) -> Vec<Heard> {
    let mut framer = Framer::new(framing, MOST, None);
    let mut heard = Vec::new();
    let mut hear = |one| heard.push(one);
    let between = if silence == 0 {
        stream.len().max(1)
    } else {
        silence
    };
    for part in stream.chunks(between) {
        for piece in part.chunks(size) {
            framer.feed(piece, &mut hear);
            assert!(framer.held() <= 2 * MOST + 16 + GARBAGE_BYTES);
        }
        framer.silence(&mut hear);
    }
    framer.end(&mut hear);
    assert_eq!(framer.held(), 0);
    heard
}

fn framing(choice: u8) -> Framing {
    let big_endian = choice & 0x80 != 0;
    let hex = choice & 0x40 != 0;
    match choice & 0x3F {
        0 => Framing::Lines,
        1 => Framing::Fixed { length: 5 },
        2 => Framing::Slip,
        3 => Framing::Cobs,
        4 => Framing::IdleGap,
        5 => Framing::Delimiter {
            delimiter: b"\r\n".to_vec(),
            escape: None,
        },
        6 => Framing::Delimiter {
            delimiter: vec![0x7E],
            escape: Some(Escape {
                byte: 0x7D,
                xor: 0x20,
            }),
        },
        kind @ 7..=9 => Framing::Length {
            width: [Width::Bits8, Width::Bits16, Width::Bits32][usize::from(kind - 7)],
            big_endian,
        },
        kind => Framing::StxEtx(Envelope {
            start: 2,
            end: 3,
            escape: (kind & 8 != 0).then_some(0x10),
            checksum: [
                Checksum::None,
                Checksum::Sum,
                Checksum::Xor,
                Checksum::Crc16Modbus,
                Checksum::Crc16Ccitt,
                Checksum::Crc16Xmodem,
                Checksum::Crc16Kermit,
                Checksum::Crc32,
            ][usize::from(kind & 7)],
            covers: [Covers::Data, Covers::DataEnd, Covers::All][usize::from(kind) % 3],
            big_endian,
            hex,
        }),
    }
}

#[cfg(test)]
#[test]
fn frames_of_the_corpus() {
    crate::replay::replay("frames", frames);
}
