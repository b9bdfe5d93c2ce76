//! `secrets`: keyed hashes. The keys stay in the host.

use std::fmt;

use hmac::Mac;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::Call;
use crate::cache::keyed;

/// The bytes of a secret file. They show up nowhere: not in logs, not in errors, not in a module.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret from a file's bytes. One newline at the end is the editor's, not the key's.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "hmac-sha256",
        |cx: StoreContextMut<'_, Call>, (name, data): (String, Vec<u8>)| {
            let answer = match cx.data().context.secrets.get(&name) {
                Some(Secret(key)) => {
                    let mut mac = keyed(key);
                    mac.update(&data);
                    Ok(mac.finalize().into_bytes().to_vec())
                }
                None => Err("the site names no such secret for this filter".to_owned()),
            };
            Ok((answer,))
        },
    )
}
