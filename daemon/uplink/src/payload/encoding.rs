//! Format and compression of payloads, and the bounded way back.

use std::borrow::Cow;
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::cbor;

/// The first bytes of everything that is compressed with Zstandard (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How far back a compressed payload that comes in may refer: the memory that its reader needs beside the result. The
/// standard asks every reader for this much.
const WINDOW: u64 = 8 * 1024 * 1024;

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON text.
    #[default]
    Json,
    /// The same document as CBOR.
    Cbor,
}

/// How a message is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// Not at all.
    #[default]
    None,
    /// One Zstandard frame.
    Zstd,
}

/// Format and compression of an uplink's numbered messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The format.
    pub format: Format,
    /// The compression.
    pub compress: Compress,
}

/// Why a message could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// It was made into JSON by ourselves, so that this is damage.
    #[error("its items are damaged in the store: {0}")]
    Json(#[from] serde_json::Error),
    /// A receiver need not take it.
    #[error(
        "it is {bytes} bytes long in clear, and a receiver need not take more than {most}; raise `max-message` at the uplink"
    )]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
}

/// A payload that came in and cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is longer than what was allowed, in clear.
    #[error("it is longer than {most} bytes")]
    TooLarge {
        /// What was allowed.
        most: usize,
    },
    /// It begins like Zstandard and is none, or asks for more memory than its reader has.
    #[error("it begins like Zstandard and cannot be decompressed: {0}")]
    Damaged(String),
}

impl Encoding {
    /// MQTT 5's content type: the media type, with the suffix of RFC 8878 where it is compressed.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match (self.format, self.compress) {
            (Format::Json, Compress::None) => "application/json",
            (Format::Json, Compress::Zstd) => "application/json+zstd",
            (Format::Cbor, Compress::None) => "application/cbor",
            (Format::Cbor, Compress::Zstd) => "application/cbor+zstd",
        }
    }

    /// A JSON document of at most `most` bytes, written this way. The same document gives the same bytes.
    pub(crate) fn encode(self, json: Vec<u8>, most: usize) -> Result<Vec<u8>, EncodeError> {
        let clear = match self.format {
            Format::Json => json,
            Format::Cbor => cbor::from_json(&json)?,
        };
        let bytes = clear.len();
        if bytes > most {
            return Err(EncodeError::TooLarge { bytes, most });
        }
        Ok(match self.compress {
            Compress::None => clear,
            Compress::Zstd => compress_to_vec(clear.as_slice(), CompressionLevel::Fastest),
        })
    }
}

/// A payload that came in, in clear: decompressed where its first bytes say Zstandard, else as it is. Neither result nor
/// memory exceed what was allowed, whatever the payload says of itself.
///
/// # Errors
/// It is longer than `most` bytes in clear, or damaged.
pub fn open(payload: &[u8], most: usize) -> Result<Cow<'_, [u8]>, OpenError> {
    if !payload.starts_with(&ZSTD) {
        return if payload.len() <= most {
            Ok(Cow::Borrowed(payload))
        } else {
            Err(OpenError::TooLarge { most })
        };
    }
    let damaged = |error: &dyn std::fmt::Display| OpenError::Damaged(error.to_string());
    let decoder = StreamingDecoder::new_with_max_window_size(payload, WINDOW)
        .map_err(|error| damaged(&error))?;
    let mut clear = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut clear)
        .map_err(|error| damaged(&error))?;
    if clear.len() > most {
        return Err(OpenError::TooLarge { most });
    }
    Ok(Cow::Owned(clear))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zstd(clear: &[u8]) -> Vec<u8> {
        compress_to_vec(clear, CompressionLevel::Fastest)
    }

    #[test]
    fn what_is_too_long_in_clear_is_not_written() {
        let encode = |compress, bytes: usize| {
            let encoding = Encoding {
                format: Format::Json,
                compress,
            };
            let json = vec![b' '; bytes];
            encoding
                .encode(json, 1000)
                .map_err(|error| error.to_string())
        };
        for compress in [Compress::None, Compress::Zstd] {
            assert!(encode(compress, 1000).is_ok());
            let error = encode(compress, 1001).unwrap_err();
            assert!(error.contains("1001 bytes long in clear"), "{error}");
        }
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        // 32 MiB of nothing in a few kilobytes.
        let bomb = zstd(&vec![0; 32 * 1024 * 1024]);
        assert!(bomb.len() < 64 * 1024, "{}", bomb.len());
        let opened = open(&bomb, 64 * 1024);
        assert!(matches!(opened, Err(OpenError::TooLarge { most: 65_536 })));
        // A frame that wants a window of 2 GiB: descriptor 0, window exponent 21.
        let hungry = [&ZSTD[..], &[0, 21 << 3, 1, 0, 0]].concat();
        let error = open(&hungry, 64 * 1024).unwrap_err().to_string();
        assert!(error.contains("cannot be decompressed"), "{error}");
        assert!(open(&[b'x'; 11], 10).is_err());
        assert!(open(&[b'x'; 10], 10).is_ok());
        assert!(open(b"", 10).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn what_was_compressed_opens(
            piece in proptest::collection::vec(any::<u8>(), 0..3000),
            times in 1usize..120,
        ) {
            let clear = piece.repeat(times);
            let bytes = zstd(&clear);
            prop_assert_eq!(&bytes, &zstd(&clear), "the same bytes every time");
            let opened = open(&bytes, clear.len()).unwrap();
            prop_assert_eq!(&*opened, &clear[..]);
            if !clear.is_empty() {
                prop_assert!(open(&bytes, clear.len() - 1).is_err());
            }
        }

        /// Damage is an error or another text, never more than was allowed and never a panic.
        #[test]
        fn damage_is_survived(
            clear in proptest::collection::vec(any::<u8>(), 0..3000),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut bytes = zstd(&clear);
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(1 + cut.index(bytes.len()));
            if let Ok(opened) = open(&bytes, 1000) {
                prop_assert!(opened.len() <= 1000);
            }
        }
    }
}
