use proptest::prelude::*;

use super::*;

/// Every kind of framing there is, with its parameters chosen.
fn framings() -> Vec<Framing> {
    let escape = |byte, xor| Some(Escape { byte, xor });
    let delimiter = |delimiter: &[u8], escape| Framing::Delimiter {
        delimiter: delimiter.to_vec(),
        escape,
    };
    let length = |width, big_endian| Framing::Length { width, big_endian };
    let mut all = vec![
        Framing::Lines,
        Framing::Fixed { length: 5 },
        Framing::Slip,
        Framing::Cobs,
        Framing::IdleGap,
        delimiter(b";", None),
        delimiter(&[0x7E], escape(0x7D, 0x20)),
        delimiter(b"\r\n>", escape(b'\\', 0)),
        delimiter(b"aab", None),
        length(Width::Bits8, true),
        length(Width::Bits16, true),
        length(Width::Bits16, false),
        length(Width::Bits32, true),
        length(Width::Bits32, false),
    ];
    let checksums = [
        Checksum::None,
        Checksum::Sum,
        Checksum::Xor,
        Checksum::Crc16Modbus,
        Checksum::Crc16Ccitt,
        Checksum::Crc16Xmodem,
        Checksum::Crc16Kermit,
        Checksum::Crc32,
    ];
    for (index, checksum) in checksums.into_iter().enumerate() {
        for hex in [false, true] {
            all.push(Framing::StxEtx(Envelope {
                start: 2,
                end: 3,
                escape: (index % 2 == 1).then_some(0x10),
                checksum,
                covers: [Covers::Data, Covers::DataEnd, Covers::All][index % 3],
                big_endian: index % 2 == 0,
                hex,
            }));
        }
    }
    all
}

/// What a sender puts on the line for a frame, written from each format's own document.
fn sent(framing: &Framing, data: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    match framing {
        Framing::Lines => line.extend([data, b"\r\n"].concat()),
        Framing::Fixed { .. } | Framing::IdleGap => line.extend(data),
        Framing::Delimiter { delimiter, escape } => {
            for &byte in data {
                match escape {
                    Some(escape) if byte == escape.byte || delimiter.contains(&byte) => {
                        line.extend([escape.byte, byte ^ escape.xor]);
                    }
                    Some(_) | None => line.push(byte),
                }
            }
            line.extend(delimiter);
        }
        Framing::Length { width, big_endian } => {
            let length = u32::try_from(data.len()).unwrap();
            let bytes = length.to_be_bytes();
            let mut prefix = match width {
                Width::Bits8 => bytes[3..].to_vec(),
                Width::Bits16 => bytes[2..].to_vec(),
                Width::Bits32 => bytes.to_vec(),
            };
            if !big_endian {
                prefix.reverse();
            }
            line.extend([&prefix, data].concat());
        }
        Framing::Slip => {
            for &byte in data {
                match byte {
                    0xC0 => line.extend([0xDB, 0xDC]),
                    0xDB => line.extend([0xDB, 0xDD]),
                    byte => line.push(byte),
                }
            }
            line.push(0xC0);
        }
        Framing::Cobs => {
            // Blocks of what stands between zeros, a zero added at the end.
            let mut with_zero = data.to_vec();
            with_zero.push(0);
            let mut block = Vec::new();
            let mut full = false;
            for byte in with_zero {
                if byte == 0 {
                    if !(full && block.is_empty() && line.len() == data.len() + data.len() / 254) {
                        line.push(u8::try_from(block.len() + 1).unwrap());
                        line.append(&mut block);
                    }
                    full = false;
                } else {
                    block.push(byte);
                    if block.len() == 254 {
                        line.push(255);
                        line.append(&mut block);
                        full = true;
                    }
                }
            }
            line.push(0);
        }
        Framing::StxEtx(envelope) => {
            line.push(envelope.start);
            for &byte in data {
                if let Some(escape) = envelope.escape
                    && [envelope.start, envelope.end, escape].contains(&byte)
                {
                    line.push(escape);
                }
                line.push(byte);
            }
            line.push(envelope.end);
            let last = line.len() - 1;
            let covered = match envelope.covers {
                Covers::Data => &line[1..last],
                Covers::DataEnd => &line[1..],
                Covers::All => &line[..],
            };
            let width = envelope.checksum.width();
            let mut sum = envelope.checksum.of(covered).to_be_bytes()[4 - width..].to_vec();
            if !envelope.big_endian {
                sum.reverse();
            }
            if envelope.hex {
                let digits: String = sum.iter().map(|byte| format!("{byte:02X}")).collect();
                sum = digits.into_bytes();
            }
            line.extend(sum);
        }
    }
    line
}

/// Whether a frame can hold these bytes as they are.
fn can_hold(framing: &Framing, data: &[u8]) -> bool {
    match framing {
        Framing::Lines => !data.iter().any(|byte| b"\r\n".contains(byte)),
        Framing::Fixed { length } => data.len() == *length,
        Framing::Delimiter { delimiter, escape } => {
            escape.is_some() || !data.iter().any(|byte| delimiter.contains(byte))
        }
        Framing::StxEtx(envelope) => {
            envelope.escape.is_some() || !data.iter().any(|byte| [2, 3].contains(byte))
        }
        Framing::Length { .. } | Framing::Slip | Framing::Cobs | Framing::IdleGap => true,
    }
}

fn feed(framer: &mut Framer, pieces: &[&[u8]]) -> Vec<Heard> {
    let mut heard = Vec::new();
    for piece in pieces {
        framer.feed(piece, &mut |one| heard.push(one));
    }
    heard
}

fn frames(heard: &[Heard]) -> Vec<&[u8]> {
    let frame = |one: &'_ Heard| match one {
        Heard::Frame(_) => true,
        Heard::Garbage { .. } => false,
    };
    heard.iter().filter(|one| frame(one)).map(content).collect()
}

fn content(one: &Heard) -> &[u8] {
    match one {
        Heard::Frame(bytes) | Heard::Garbage { bytes, .. } => bytes,
    }
}

fn bytes_of(heard: &[Heard]) -> Vec<u8> {
    heard.iter().map(content).collect::<Vec<_>>().concat()
}

const MOST: usize = 300;

proptest! {
    /// Also with a silence between two pieces.
    #[test]
    fn pieces_do_not_matter(
        index in 0..framings().len(),
        // Bytes that mean something to some framing come often.
        stream in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(&[0u8, 1, 2, 3, 5, 0x10, 10, 13, b';', 0x7D, 0x7E, 0xC0, 0xDB, 0xDC][..])],
            0..2000,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        silent in any::<bool>(),
    ) {
        let framing = &framings()[index];
        let silence = stream.len() / 2;
        let (mut whole, mut cut) = (Framer::new(framing, MOST, None), Framer::new(framing, MOST, None));
        let (mut expect, mut found) = (Vec::new(), Vec::new());
        let (before, after) = stream.split_at(silence);
        for (part, last) in [(before, false), (after, true)] {
            whole.feed(part, &mut |one| expect.push(one));
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(part.len() + 1)).collect();
            places.extend([0, part.len()]);
            places.sort_unstable();
            for pair in places.windows(2) {
                cut.feed(&part[pair[0]..pair[1]], &mut |one| found.push(one));
                prop_assert!(cut.held() <= 2 * MOST + 2 * 8 + GARBAGE_BYTES, "{}", cut.held());
            }
            if silent && !last {
                whole.silence(&mut |one| expect.push(one));
                cut.silence(&mut |one| found.push(one));
            }
        }
        whole.end(&mut |one| expect.push(one));
        cut.end(&mut |one| found.push(one));
        prop_assert_eq!(&expect, &found);
        prop_assert_eq!(cut.held(), 0);
        for one in &found {
            match one {
                Heard::Frame(frame) => prop_assert!((1..=MOST).contains(&frame.len())),
                Heard::Garbage { bytes, .. } => prop_assert!((1..=GARBAGE_BYTES).contains(&bytes.len())),
            }
        }
        // Framings that take nothing away but what surrounds frames lose no byte.
        if matches!(framing, Framing::Fixed { .. } | Framing::IdleGap) {
            prop_assert_eq!(bytes_of(&found), stream);
        }
    }

    #[test]
    fn what_is_sent_is_heard(
        index in 0..framings().len(),
        data in prop::collection::vec(
            prop::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(0xC0u8), Just(0xDBu8), Just(0x10u8), Just(b'\\')], 1..MOST),
            1..6,
        ),
    ) {
        let framing = &framings()[index];
        let data: Vec<Vec<u8>> = data
            .into_iter()
            .map(|mut data| {
                if let Framing::Fixed { length } = framing {
                    data.resize(*length, 7);
                }
                if *framing == (Framing::Length { width: Width::Bits8, big_endian: true }) {
                    data.truncate(255);
                }
                data
            })
            .filter(|data| can_hold(framing, data))
            .collect();
        let mut framer = Framer::new(framing, MOST, None);
        let mut heard = Vec::new();
        for data in &data {
            framer.feed(&sent(framing, data), &mut |one| heard.push(one));
            if *framing == Framing::IdleGap {
                framer.silence(&mut |one| heard.push(one));
            }
        }
        let expect: Vec<Heard> = data.into_iter().map(|data| Heard::Frame(data.into())).collect();
        prop_assert_eq!(heard, expect);
    }

    /// A damaged frame costs itself, and where the damage hides its end, at most the one behind it: the second one behind it
    /// is whole.
    #[test]
    fn frames_behind_a_damaged_one_are_whole(
        index in 0..framings().len(),
        digits in prop::collection::vec(b'4'..=b'9', 5..6),
        at in any::<prop::sample::Index>(),
        by in 1..=255u8,
    ) {
        let framing = &framings()[index];
        // What has no mark in the stream is resynchronised by silence, as below.
        prop_assume!(!matches!(framing, Framing::Fixed { .. } | Framing::IdleGap | Framing::Length { .. }));
        let whole = sent(framing, &digits);
        let mut damaged = whole.clone();
        let place = at.index(damaged.len());
        damaged[place] ^= by;
        let mut framer = Framer::new(framing, MOST, None);
        let heard = feed(&mut framer, &[&whole, &damaged, &whole, &whole]);
        let frames = frames(&heard);
        prop_assert_eq!(frames.first().copied(), Some(&digits[..]));
        prop_assert_eq!(frames.last().copied(), Some(&digits[..]));
        if let Framing::StxEtx(envelope) = framing
            && envelope.checksum == Checksum::Crc32
        {
            // What is one byte off is not taken for a frame; a sum of one byte is fooled once in 256 times.
            prop_assert!(frames.iter().all(|frame| *frame == digits), "{frames:?}");
        }
    }
}

#[track_caller]
fn check(framing: &Framing, stream: &[u8], expect: &[&[u8]], garbage: &[&[u8]]) {
    let mut framer = Framer::new(framing, MOST, None);
    let heard = feed(&mut framer, &[stream]);
    assert_eq!(frames(&heard), expect, "{heard:?}");
    let thrown = |one: &Heard| match one {
        Heard::Garbage { bytes, .. } => Some(bytes.clone()),
        Heard::Frame(_) => None,
    };
    let thrown: Vec<Bytes> = heard.iter().filter_map(thrown).collect();
    assert_eq!(thrown, garbage, "{heard:?}");
}

#[test]
fn lines_end_with_any_terminator() {
    check(
        &Framing::Lines,
        b"a\nb\rc\r\n\n\rd",
        &[b"a", b"b", b"c"],
        &[],
    );
}

#[test]
fn a_frame_that_is_too_long_is_garbage_up_to_its_end() {
    let long = [b'x'; MOST + 1];
    for (framing, end) in [
        (Framing::Lines, &b"\n"[..]),
        (Framing::Slip, &[0xC0]),
        (
            Framing::Delimiter {
                delimiter: b";;".to_vec(),
                escape: None,
            },
            b";;",
        ),
    ] {
        let stream = [&long[..], &long, end, b"ok", end].concat();
        let framer = &mut Framer::new(&framing, MOST, None);
        let heard = feed(framer, &[&stream]);
        let (last, before) = heard.split_last().unwrap();
        assert_eq!(last, &Heard::Frame(Bytes::from_static(b"ok")));
        assert_eq!(bytes_of(before), [long, long].concat(), "{framing:?}");
    }
    let mut framer = Framer::new(&Framing::IdleGap, MOST, None);
    let mut heard = feed(&mut framer, &[&[b'x'; 3 * GARBAGE_BYTES]]);
    framer.silence(&mut |one| heard.push(one));
    assert_eq!(frames(&heard), [] as [&[u8]; 0]);
    framer.feed(b"ok", &mut |one| heard.push(one));
    framer.silence(&mut |one| heard.push(one));
    assert_eq!(frames(&heard), [b"ok"]);
    assert_eq!(bytes_of(&heard).len(), 3 * GARBAGE_BYTES + 2);
}

#[test]
fn silence_ends_what_cannot_be_told_apart() {
    let framing = Framing::Length {
        width: Width::Bits16,
        big_endian: true,
    };
    for framing in [framing, Framing::Fixed { length: 4 }] {
        let mut framer = Framer::new(&framing, MOST, None);
        let mut heard = Vec::new();
        framer.feed(&[0, 2, 7], &mut |one| heard.push(one));
        framer.silence(&mut |one| heard.push(one));
        assert_eq!(
            heard,
            [Heard::Garbage {
                bytes: Bytes::from_static(&[0, 2, 7]),
                why: "the line fell silent in the middle of a frame"
            }]
        );
        framer.feed(&[0, 2, 8, 9], &mut |one| heard.push(one));
        assert_eq!(frames(&heard).len(), 1, "{heard:?}");
    }
}

/// The examples of Cheshire and Baker, and those that RFC 1055 gives in words.
#[test]
fn slip_and_cobs_of_the_documents() {
    let cobs = |stream: &[u8], expect: &[u8]| check(&Framing::Cobs, stream, &[expect], &[]);
    cobs(&[0x01, 0x01, 0], &[0]);
    cobs(&[0x01, 0x01, 0x01, 0], &[0, 0]);
    cobs(&[0x03, 0x11, 0x22, 0x02, 0x33, 0], &[0x11, 0x22, 0, 0x33]);
    cobs(
        &[0x05, 0x11, 0x22, 0x33, 0x44, 0],
        &[0x11, 0x22, 0x33, 0x44],
    );
    cobs(&[0x02, 0x11, 0x01, 0x01, 0x01, 0], &[0x11, 0, 0, 0]);
    let long: Vec<u8> = (1..=254).collect();
    cobs(&[&[0xFF], &long[..], &[0]].concat(), &long);
    cobs(
        &[&[0xFF], &long[..], &[0x02, 0xFF, 0]].concat(),
        &[&long[..], &[0xFF]].concat(),
    );
    cobs(
        &[&[0x01, 0xFF], &long[..], &[0]].concat(),
        &[&[0], &long[..]].concat(),
    );
    check(&Framing::Cobs, &[9, 1, 0, 2, 5, 0], &[&[5]], &[&[9, 1]]);
    check(
        &Framing::Slip,
        &[
            0xC0, 1, 0xDB, 0xDC, 0xDB, 0xDD, 2, 0xC0, 0xDB, 3, 0xC0, 4, 0xC0,
        ],
        &[&[1, 0xC0, 0xDB, 2], &[4]],
        &[&[0xDB, 3]],
    );
}

/// The check values of the catalogue of parametrised CRC algorithms: over the digits 1 to 9.
#[test]
fn checksums_of_the_catalogue() {
    let check = |checksum: Checksum, expect: u32| {
        assert_eq!(checksum.of(b"123456789"), expect, "{checksum:?}");
    };
    check(Checksum::Crc16Modbus, 0x4B37);
    check(Checksum::Crc16Ccitt, 0x29B1);
    check(Checksum::Crc16Xmodem, 0x31C3);
    check(Checksum::Crc16Kermit, 0x2189);
    check(Checksum::Crc32, 0xCBF4_3926);
    check(Checksum::Sum, 0xDD);
    check(Checksum::Xor, 0x31);
}

#[test]
fn a_frame_is_found_inside_what_was_taken_for_one() {
    let framing = Framing::StxEtx(Envelope {
        start: 2,
        end: 3,
        escape: None,
        checksum: Checksum::Xor,
        covers: Covers::DataEnd,
        big_endian: true,
        hex: false,
    });
    let sum = b'1' ^ b'2' ^ 3;
    // The end was lost, then a byte became an end.
    let stream = [
        &[2, b'9'][..],
        &[2, b'1', b'2', 3, sum, b'\r', b'\n'],
        &[2, 3, 2],
        &[2, b'1', b'2', 3, sum],
    ]
    .concat();
    check(
        &framing,
        &stream,
        &[b"12", b"12"],
        &[&[2, b'9'], &[2, 3, 2]],
    );
}

/// Opened in the middle of a stream, every kind gives what it gives of whole frames, but for the first, which is garbage.
#[test]
fn a_line_that_is_opened_in_the_middle_of_a_frame_gives_none_that_is_cut() {
    let data: [&[u8]; 3] = [b"12.50", b"13.50", b"14.50"];
    for framing in framings() {
        let whole: Vec<Vec<u8>> = data.iter().map(|data| sent(&framing, data)).collect();
        let counted = matches!(framing, Framing::Fixed { .. } | Framing::Length { .. });
        // What is cut within a delimiter ends with the next frame.
        let end = if let Framing::Delimiter { delimiter, .. } = &framing {
            delimiter.len()
        } else {
            1
        };
        for cut in 1..=whole[0].len() - end {
            let pause = Some(Duration::from_millis(50));
            let mut framer = Framer::new(&framing, 64, pause);
            let mut frames = Vec::new();
            framer.begin_cut();
            let mut heard = |heard| match heard {
                Heard::Frame(frame) => frames.push(frame.to_vec()),
                Heard::Garbage { .. } => {}
            };
            framer.feed(&whole[0][cut..], &mut heard);
            // Frames of a known length begin anew behind a pause alone.
            if counted || framing == Framing::IdleGap {
                framer.silence(&mut heard);
            }
            for frame in &whole[1..] {
                framer.feed(frame, &mut heard);
                if framing == Framing::IdleGap {
                    framer.silence(&mut heard);
                }
            }
            assert_eq!(frames, data[1..], "{framing:?}, from byte {cut}");
        }
    }
}

#[test]
fn only_what_ends_first_is_taken_for_the_rest_of_a_frame() {
    let heard = |framing: Framing, pieces: &[&[u8]]| {
        let mut framer = Framer::new(&framing, 8, None);
        framer.begin_cut();
        let mut heard = Vec::new();
        for piece in pieces {
            framer.feed(piece, &mut |what| {
                heard.push(match what {
                    Heard::Frame(frame) => format!("+{}", String::from_utf8_lossy(&frame)),
                    Heard::Garbage { bytes, .. } => format!("-{}", String::from_utf8_lossy(&bytes)),
                });
            });
        }
        framer.flush(&mut |_| {});
        heard
    };
    assert_eq!(
        heard(Framing::Lines, &[b"2.5\r\n12.5\n"]),
        ["-2.5", "+12.5"]
    );
    assert_eq!(
        heard(Framing::Lines, &[b"2", b".5\r", b"\n12.5\n"]),
        ["-2.5", "+12.5"]
    );
    // Between the two bytes of an end, or right before it, nothing was cut.
    assert_eq!(heard(Framing::Lines, &[b"\n12.5\n"]), ["+12.5"]);
    assert_eq!(
        heard(Framing::Lines, &[b"far too long a line\n12.5\n"]),
        ["-far too long a line", "+12.5"]
    );
    assert_eq!(
        heard(Framing::Cobs, &[b"\x09xy\x00\x05good\x00"]),
        ["-\x09xy", "+good"]
    );
    assert_eq!(
        heard(Framing::Fixed { length: 3 }, &[b"abcdef"]),
        ["-abc", "+def"]
    );
}
