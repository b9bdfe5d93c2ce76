//! What bytes look like: whether a line was read at its speed, how its frames begin and end, what is in them.

use crc::{CRC_16_MODBUS, Crc};

/// What came without a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk(pub Vec<u8>);

/// How well what came fits a line that was set right, 0 to 1: 0.5 and more is worth believing.
///
/// Text is told by its characters; what is no text, by checksums that fit. At a wrong speed or parity neither is there: characters fall to
/// pieces of the same bit, or into each other.
#[must_use]
pub fn score(chunks: &[Chunk]) -> f64 {
    let bytes: Vec<u8> = chunks
        .iter()
        .flat_map(|chunk| chunk.0.iter().copied())
        .collect();
    // A few characters of noise look like anything.
    if bytes.len() < 8 {
        return 0.0;
    }
    let share = |count: usize| count as f64 / bytes.len() as f64;
    let framed = share(modbus_bytes(chunks));
    let text = share(bytes.iter().filter(|byte| is_text(**byte)).count());
    let lines = bytes
        .split(|byte| is_end(*byte))
        .filter(|line| !line.is_empty());
    let longest = lines.map(<[u8]>::len).max().unwrap_or_default();
    let has_lines = bytes.iter().any(|byte| is_end(*byte)) && longest <= 1024;
    // What instruments say has digits in it, or letters, and not one character alone.
    let mut kinds = [false; 256];
    bytes
        .iter()
        .for_each(|byte| kinds[usize::from(*byte)] = true);
    let varied = kinds.iter().filter(|seen| **seen).count() >= 4;
    let plain = share(
        bytes
            .iter()
            .filter(|byte| byte.is_ascii_alphanumeric())
            .count(),
    );
    let of_text = match (varied, has_lines) {
        (false, _) => 0.0,
        // Of random bytes two in five are text, and one in four is a letter or a digit.
        (true, true) => ((text - 0.8) / 0.2).max(0.0) * (0.6 + 0.4 * (plain / 0.4).min(1.0)),
        (true, false) => ((text - 0.9) / 0.1).max(0.0) * 0.5 * (plain / 0.4).min(1.0),
    };
    let enclosed = enclosed(&bytes);
    framed.max(of_text).max(enclosed)
}

/// What is worth putting into a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// How frames begin and end.
    pub frame: FrameGuess,
    /// What is in them.
    pub decode: DecodeGuess,
    /// The first whole frame, for people.
    pub example: Vec<u8>,
}

/// How frames begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the configuration")]
pub enum FrameGuess {
    Lines,
    StxEtx,
    Slip,
    Idle,
    /// Requests and answers of Modbus: another master talks to its slaves.
    Modbus,
}

/// What is in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the configuration")]
pub enum DecodeGuess {
    Json,
    /// Columns, parted by this character.
    Csv(char),
    Text,
    Nmea,
    /// Bytes that mean nothing here.
    Unknown,
}

/// Judges what came at the right setting. `None` where that is nothing.
#[must_use]
pub fn guess(chunks: &[Chunk]) -> Option<Guess> {
    let bytes: Vec<u8> = chunks
        .iter()
        .flat_map(|chunk| chunk.0.iter().copied())
        .collect();
    if bytes.is_empty() {
        return None;
    }
    if modbus_bytes(chunks) * 2 > bytes.len() {
        let example = chunks
            .iter()
            .find(|chunk| modbus_frame(&chunk.0).is_some())?;
        return Some(Guess {
            frame: FrameGuess::Modbus,
            decode: DecodeGuess::Unknown,
            example: example.0.clone(),
        });
    }
    let text = bytes.iter().filter(|byte| is_text(**byte)).count();
    if text * 10 >= bytes.len() * 9 && bytes.iter().any(|byte| is_end(*byte)) {
        // The first line may have begun before.
        let lines = bytes
            .split(|byte| is_end(*byte))
            .filter(|line| !line.is_empty());
        let lines: Vec<&[u8]> = lines.collect();
        let whole = lines.get(1).or(lines.first()).copied().unwrap_or_default();
        return Some(Guess {
            frame: FrameGuess::Lines,
            decode: decode_of(whole),
            example: whole.to_vec(),
        });
    }
    let frames = between(&bytes, STX, ETX);
    if frames.len() >= 2 {
        return Some(Guess {
            frame: FrameGuess::StxEtx,
            decode: decode_of(frames[0]),
            example: frames[0].to_vec(),
        });
    }
    let ends = bytes.iter().filter(|byte| **byte == SLIP_END).count();
    if ends >= 3 {
        let mut frames = bytes.split(|byte| *byte == SLIP_END).skip(1);
        let example = frames.find(|frame| !frame.is_empty()).unwrap_or_default();
        return Some(Guess {
            frame: FrameGuess::Slip,
            decode: DecodeGuess::Unknown,
            example: example.to_vec(),
        });
    }
    let example = chunks.get(1).or(chunks.first())?;
    Some(Guess {
        frame: FrameGuess::Idle,
        decode: decode_of(&example.0),
        example: example.0.clone(),
    })
}

const STX: u8 = 2;
const ETX: u8 = 3;
const SLIP_END: u8 = 0xC0;

impl FrameGuess {
    /// The `frame` of a serial source; `None` where it is none.
    #[must_use]
    pub fn as_config(self) -> Option<&'static str> {
        match self {
            Self::Lines => Some("{ kind = \"lines\" }"),
            Self::StxEtx => Some("{ kind = \"stx-etx\" }"),
            Self::Slip => Some("{ kind = \"slip\" }"),
            Self::Idle => Some("{ kind = \"idle\" }"),
            Self::Modbus => None,
        }
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~')
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn decode_of(frame: &[u8]) -> DecodeGuess {
    let Some(text) = std::str::from_utf8(frame).ok().map(str::trim) else {
        return DecodeGuess::Unknown;
    };
    if text.chars().any(char::is_control) || text.is_empty() {
        return DecodeGuess::Unknown;
    }
    if text.starts_with('{') && text.ends_with('}') {
        return DecodeGuess::Json;
    }
    if is_nmea(text) {
        return DecodeGuess::Nmea;
    }
    for separator in [',', ';', '\t'] {
        if text.split(separator).count() > 1 && text.contains(|c: char| c.is_ascii_digit()) {
            return DecodeGuess::Csv(separator);
        }
    }
    DecodeGuess::Text
}

/// A sentence of NMEA 0183, with the checksum that it says.
fn is_nmea(text: &str) -> bool {
    let Some((body, sum)) = text
        .strip_prefix(['$', '!'])
        .and_then(|t| t.rsplit_once('*'))
    else {
        return false;
    };
    let xor = body.bytes().fold(0, |sum, byte| sum ^ byte);
    u8::from_str_radix(sum, 16).is_ok_and(|sum| sum == xor)
}

/// What stands between these two, without another of them.
fn between(bytes: &[u8], start: u8, end: u8) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut begun = None;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == start {
            begun = Some(at + 1);
        } else if *byte == end
            && let Some(from) = begun.take()
        {
            frames.push(&bytes[from..at]);
        }
    }
    frames
}

/// Texts in STX and ETX are as good a sign as lines.
fn enclosed(bytes: &[u8]) -> f64 {
    let frames = between(bytes, STX, ETX);
    let text = frames
        .iter()
        .filter(|frame| !frame.is_empty() && frame.iter().all(|byte| is_text(*byte)));
    let framed: usize = text.map(|frame| frame.len() + 2).sum();
    match frames.len() {
        0 | 1 => 0.0,
        _ => 0.9 * framed as f64 / bytes.len() as f64,
    }
}

/// Bytes that are frames of Modbus RTU, by their checksum.
fn modbus_bytes(chunks: &[Chunk]) -> usize {
    let frames = chunks.iter().filter_map(|chunk| modbus_frame(&chunk.0));
    frames.sum()
}

/// A chunk that is one frame, or a request with its answer behind it.
fn modbus_frame(chunk: &[u8]) -> Option<usize> {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
    let fits = |frame: &[u8]| {
        let (body, sum) = frame.split_last_chunk::<2>()?;
        (body.len() >= 2 && CRC.checksum(body) == u16::from_le_bytes(*sum)).then_some(())
    };
    let whole = (4..=260).contains(&chunk.len()) && fits(chunk).is_some();
    // A request is eight bytes.
    let pair = chunk
        .split_at_checked(8)
        .is_some_and(|(request, answer)| fits(request).and_then(|()| fits(answer)).is_some());
    (whole || pair).then_some(chunk.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a receiver makes of what is sent at another speed: 8N1, sampled in the middle of its own bits.
    fn heard(sent: &[u8], speed: u32, listening: u32) -> Vec<u8> {
        let mut line = vec![true; 20];
        for byte in sent {
            line.push(false);
            line.extend((0..8).map(|bit| byte >> bit & 1 == 1));
            line.push(true);
        }
        line.extend([true; 20]);
        // In nanoseconds.
        const SECOND: u64 = 1_000_000_000;
        let at = |time: u64| {
            let index = usize::try_from(time * u64::from(speed) / SECOND).unwrap();
            line.get(index).copied().unwrap_or(true)
        };
        let end = line.len() as u64 * SECOND / u64::from(speed);
        let bit = SECOND / u64::from(listening);
        let step = SECOND / u64::from(speed) / 16;
        let mut heard = Vec::new();
        let mut time = 0;
        while time < end {
            if at(time) {
                time += step.min(bit / 16);
                continue;
            }
            let sample = |number: u64| at(time + bit * (2 * number + 1) / 2);
            let byte = (0..8u8).fold(0, |byte, n| byte | u8::from(sample(u64::from(n) + 1)) << n);
            heard.push(byte);
            time += bit * 19 / 2;
            // A receiver waits for the line to be idle again.
            while time < end && !at(time) {
                time += step;
            }
        }
        heard
    }

    fn chunk(bytes: &[u8]) -> Vec<Chunk> {
        vec![Chunk(bytes.to_vec())]
    }

    const SPEEDS: [u32; 7] = [1200, 2400, 4800, 9600, 19_200, 38_400, 115_200];

    const GGA: &[u8] = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n";

    #[test]
    fn the_speed_at_which_it_was_sent_scores_best() {
        let samples: [&[u8]; 4] = [
            &GGA.repeat(3),
            &b"21.5;1013.2;OK\r\n".repeat(8),
            &b"ST,GS,+  12.345 kg\r\n".repeat(8),
            &b"\x02+0012.5\x03".repeat(10),
        ];
        for sent in samples {
            for speed in SPEEDS {
                let scores = SPEEDS.map(|other| (other, score(&chunk(&heard(sent, speed, other)))));
                for (other, got) in scores {
                    let right = other == speed;
                    assert_eq!(
                        got >= 0.5,
                        right,
                        "{:?} sent at {speed}, heard at {other}: {got}",
                        String::from_utf8_lossy(&sent[..8])
                    );
                }
            }
        }
    }

    /// Read of two registers and its answer (Modbus over serial line 1.02, 6.2.2), as another master's traffic.
    const REQUEST: [u8; 8] = [0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87];

    #[test]
    fn modbus_is_told_by_its_checksums() {
        let chunks = vec![Chunk(REQUEST.to_vec()); 3];
        assert_eq!(score(&chunks), 1.0);
        assert_eq!(guess(&chunks).unwrap().frame, FrameGuess::Modbus);
        let broken: Vec<Chunk> = chunks
            .iter()
            .map(|Chunk(bytes)| Chunk(bytes.iter().map(|byte| byte ^ 1).collect()))
            .collect();
        assert!(score(&broken) < 0.5);
    }

    #[test]
    fn silence_and_noise_are_nothing() {
        assert_eq!(score(&[]), 0.0);
        assert_eq!(guess(&[]), None);
        assert_eq!(score(&chunk(b"\r\n12")), 0.0);
        assert_eq!(score(&chunk(&[0; 500])), 0.0);
        assert_eq!(score(&chunk(&b"U".repeat(500))), 0.0);
        let mut state = 1u32;
        let noise: Vec<u8> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        assert!(score(&chunk(&noise)) < 0.2);
    }

    #[test]
    fn frames_and_what_is_in_them() {
        let check = |bytes: &[u8], frame, decode, example: &[u8]| {
            let guess = guess(&chunk(bytes)).unwrap();
            assert_eq!((guess.frame, guess.decode), (frame, decode), "{bytes:?}");
            assert_eq!(guess.example, example);
        };
        // The first line may be a part of one.
        check(
            &[b"19,4807", GGA].concat(),
            FrameGuess::Lines,
            DecodeGuess::Csv(','),
            b"19,4807$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47",
        );
        check(
            &GGA.repeat(2),
            FrameGuess::Lines,
            DecodeGuess::Nmea,
            &GGA[..GGA.len() - 2],
        );
        check(
            b"1;2\n3;4\n",
            FrameGuess::Lines,
            DecodeGuess::Csv(';'),
            b"3;4",
        );
        check(
            b"{\"w\":1}\r{\"w\":2}\r",
            FrameGuess::Lines,
            DecodeGuess::Json,
            b"{\"w\":2}",
        );
        check(
            b"12.5 kg\r\n12.6 kg\r\n",
            FrameGuess::Lines,
            DecodeGuess::Text,
            b"12.6 kg",
        );
        check(
            b"\x02+1\x03\x02+2\x03",
            FrameGuess::StxEtx,
            DecodeGuess::Text,
            b"+1",
        );
        check(
            b"\xC0\x01\x02\xC0\xC0\x03\xC0",
            FrameGuess::Slip,
            DecodeGuess::Unknown,
            &[1, 2],
        );
        check(
            &[0x81, 0x05, 0xFF],
            FrameGuess::Idle,
            DecodeGuess::Unknown,
            &[0x81, 0x05, 0xFF],
        );
    }
}
