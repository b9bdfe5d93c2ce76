//! Signatures of a site's own modules: the file `<name>.sig` beside a component, and the keys that make and trust them.
//!
//! What is signed is a text of three lines, so that any tool can make it again:
//!
//! ```text
//! tidegate module signature v1
//! component sha256:<64 hex digits>
//! manifest sha256:<64 hex digits>
//! ```
//!
//! Each line ends in a line feed. The digests are those of the two files as they lie there, byte for byte. The first line keeps a
//! signature of this kind from being one of any other: metadata of a repository are JSON and begin with `{`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A file of signatures is some lines of JSON; larger ones are refused.
pub const SIGNATURE_FILE_BYTES: u64 = 16 * 1024;
/// Signatures in a file; more are refused.
pub const SIGNATURES: usize = 16;

/// What a key is written with in front.
const ALGORITHM: &str = "ed25519:";
/// Before the 32 bytes of a public key in DER: RFC 8410, section 4.
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// A public key of Ed25519, written `ed25519:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key by its bytes; `None` for another number of them than 32.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A text that is no public key.
#[derive(Debug, thiserror::Error)]
#[error(
    "no public key of Ed25519: one is written `ed25519:` and 64 hex digits, as `tidegate repo sign` prints it, or as PEM, as \
     `openssl pkey -pubout` does"
)]
pub struct BadKey;

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let bytes = if text.starts_with("-----BEGIN") {
            of_pem(text)
        } else {
            unhex(text.strip_prefix(ALGORITHM).unwrap_or(text))
        };
        bytes.as_deref().and_then(Self::new).ok_or(BadKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// What is signed, of the digests of component and manifest, each `sha256:` and 64 hex digits.
#[must_use]
pub fn signed_text(component: &str, manifest: &str) -> String {
    format!("tidegate module signature v1\ncomponent {component}\nmanifest {manifest}\n")
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it is said to be.
    pub key: PublicKey,
    /// 64 bytes.
    pub bytes: Vec<u8>,
}

/// Why a file of signatures is none.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Another shape, or more than is read.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A layout of another version.
    #[error("it has layout {0}; this version knows 1")]
    Layout(u64),
    /// Too many.
    #[error("it holds {0} signatures; at most {SIGNATURES} are read")]
    TooMany(usize),
    /// Not 64 bytes in hex.
    #[error("the signature by {0} is not 128 hex digits")]
    Bytes(PublicKey),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u64,
    signatures: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: PublicKey,
    signature: String,
}

/// Reads a file of signatures. Nothing is verified.
///
/// # Errors
/// It is none.
pub fn parse(bytes: &[u8]) -> Result<Vec<Signature>, SignatureError> {
    let file: File = serde_json::from_slice(bytes)?;
    if file.v != 1 {
        return Err(SignatureError::Layout(file.v));
    }
    if file.signatures.len() > SIGNATURES {
        return Err(SignatureError::TooMany(file.signatures.len()));
    }
    let signatures = file.signatures.into_iter();
    signatures
        .map(|Entry { key, signature }| {
            let bytes = unhex(&signature).filter(|bytes| bytes.len() == 64);
            let bytes = bytes.ok_or(SignatureError::Bytes(key))?;
            Ok(Signature { key, bytes })
        })
        .collect()
}

/// The text of a file of signatures.
#[must_use]
pub fn write(signatures: &[Signature]) -> String {
    let entries = signatures.iter().map(|signature| Entry {
        key: signature.key,
        signature: hex(&signature.bytes),
    });
    let file = File {
        v: 1,
        signatures: entries.collect(),
    };
    // Texts and a number: this cannot fail.
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

fn of_pem(text: &str) -> Option<Vec<u8>> {
    let body = text.strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let der = base64(body)?;
    der.strip_prefix(&SPKI_HEAD).map(<[u8]>::to_vec)
}

/// RFC 4648, with line breaks as PEM has them.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    let mut letters = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    for letter in letters.by_ref() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
        held &= (1 << bits) - 1;
    }
    let padded = letters.all(|letter| letter == b'=');
    (padded && held == 0).then_some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |letter: u8| char::from(letter).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // RFC 8410, section 10.1: `openssl pkey -pubin -in … -text` gives the same bytes.
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const HEX: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn a_key_is_read_in_every_form_and_written_in_one() {
        let key: PublicKey = PEM.parse().unwrap();
        assert_eq!(key.to_string(), format!("ed25519:{HEX}"));
        for text in [
            HEX.to_owned(),
            HEX.to_uppercase(),
            key.to_string(),
            format!("  {key}\n"),
            PEM.replace('\n', "\r\n"),
        ] {
            assert_eq!(text.parse::<PublicKey>().unwrap(), key, "{text}");
        }
        let rsa = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA";
        for text in [
            "",
            "ed25519:",
            &HEX[1..],
            &format!("{HEX}00"),
            &format!("rsa:{HEX}"),
            &HEX.replace('f', "g"),
            &PEM.replace("MCow", "MCox"),
            &PEM.replace("uE=", "uF="),
            &PEM.replace("PUBLIC", "PRIVATE"),
            &format!("{PEM_BEGIN}\n{rsa}\n{PEM_END}"),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_signed_says_what_it_is_and_of_what() {
        let text = signed_text("sha256:aa", "sha256:bb");
        assert_eq!(
            text,
            "tidegate module signature v1\ncomponent sha256:aa\nmanifest sha256:bb\n"
        );
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_nothing_else_is() {
        let key: PublicKey = HEX.parse().unwrap();
        let signature = Signature {
            key,
            bytes: (0..64).collect(),
        };
        let many = |count| vec![signature.clone(); count];
        for count in [0, 1, SIGNATURES] {
            let text = write(&many(count));
            assert!(text.len() as u64 <= SIGNATURE_FILE_BYTES);
            assert_eq!(parse(text.as_bytes()).unwrap(), many(count));
        }
        let refused = |text: String| parse(text.as_bytes()).unwrap_err().to_string();
        let text = write(&many(1));
        assert!(refused(write(&many(17))).contains("17 signatures"));
        assert!(refused(text.replace("\"v\": 1", "\"v\": 2")).contains("layout 2"));
        assert!(refused(text.replace("3f\"", "\"")).contains("128 hex digits"));
        assert!(refused(text.replace("3f\"", "3g\"")).contains("128 hex digits"));
        assert!(refused(text.replace("ed25519:19", "ed25519:1")).contains("no public key"));
        assert!(refused(text.replace("\"v\"", "\"w\"")).contains("unknown field"));
        assert!(refused(text.replace("\"v\": 1", "\"v\": 1, \"v\": 1")).contains("duplicate"));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(text in "\\PC{0,200}") {
            let _key = text.parse::<PublicKey>();
            let _file = parse(text.as_bytes());
            let _bytes = base64(&text);
        }
    }
}
