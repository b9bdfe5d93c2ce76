//! base64url without padding (RFC 4648, section 5): how bytes become a text.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of some bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, place| {
            bits << 8 | usize::from(chunk.get(place).copied().unwrap_or_default())
        });
        // One digit more than there are bytes; the rest would be padding.
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[bits >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

/// Whether a text is of that alphabet and of a length that bytes can have.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    text.len() % 4 != 1 && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10, without the padding; and the two digits in which this alphabet differs.
    #[test]
    fn the_vectors_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert!(is_valid(text));
        }
        assert_eq!(encode(&[0xfb, 0xff]), "-_8");
        assert!(!is_valid("Zm9vY"));
        assert!(!is_valid("Zg=="));
        assert!(!is_valid("+/8"));
    }
}
