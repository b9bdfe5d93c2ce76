//! The certificate request of the gateway's key: PKCS#10 (RFC 2986) with Ed25519 (RFC 8410), as DER in PEM.
//!
//! One name, one key, one algorithm: the whole of it is six nested elements, which is less than any writer of DER takes to
//! be called.

use crate::key::{Key, pem};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BIT_STRING: u8 = 0x03;
const UTF8: u8 = 0x0c;
/// Version 0, which is version 1.
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
/// `commonName`
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// `id-Ed25519`, in its sequence.
const ALGORITHM: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// No attributes.
const ATTRIBUTES: [u8; 2] = [0xa0, 0x00];
const LABEL: &str = "CERTIFICATE REQUEST";

impl Key {
    /// A request for a certificate of this key, in the name of `common_name`.
    #[must_use]
    pub fn request(&self, common_name: &str) -> String {
        let name = [&COMMON_NAME[..], &element(UTF8, common_name.as_bytes())].concat();
        let subject = element(SEQUENCE, &element(SET, &element(SEQUENCE, &name)));
        let signed = element(
            SEQUENCE,
            &[&VERSION[..], &subject, &self.public().der(), &ATTRIBUTES].concat(),
        );
        // No bit of the last byte is unused.
        let signature = [&[0][..], &self.sign(&signed)].concat();
        let request = [&signed[..], &ALGORITHM, &element(BIT_STRING, &signature)].concat();
        pem(LABEL, &element(SEQUENCE, &request))
    }
}

/// An element of DER: tag, length, contents.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => bytes.push(short),
        Ok(_) | Err(_) => {
            let digits = length.to_be_bytes();
            let digits: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
            bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or_default());
            bytes.extend(digits);
        }
    }
    bytes.extend(contents);
    bytes
}
