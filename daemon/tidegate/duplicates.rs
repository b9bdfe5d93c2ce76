//! What a source sent before, told by the identity that it gives its messages. A duplicate goes no further than here: it
//! is counted, and acknowledged with the commit after that of its first copy or with the same one.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use tidegate_domain::{Identity, IdentityWindow, Message};
use tidegate_pipeline::decode::IdentityField;

/// The duplicates of one source. The window holds what is committed and what is on its way to the writer: both reach
/// the database in this order, or neither does.
pub(crate) struct Duplicates {
    /// Where the identity is; `None` for a property, which comes with the message.
    field: Option<IdentityField>,
    window: IdentityWindow,
}

/// What is left of a batch.
pub(crate) struct Sifted<'a> {
    /// The messages that are new, in their order.
    pub(crate) new: Cow<'a, [Message]>,
    /// Their identities, as far as they have one.
    pub(crate) identities: Vec<Identity>,
    /// Messages that were known.
    pub(crate) duplicates: u64,
    /// Messages without an identity; they are among the new ones.
    pub(crate) unidentified: u64,
}

impl Duplicates {
    /// `known` are the identities that are committed, oldest first.
    pub(crate) fn new(field: Option<IdentityField>, window: u32, known: &[Identity]) -> Self {
        let mut all = IdentityWindow::new(window as usize);
        all.remember(known);
        Self { field, window: all }
    }

    /// Takes out what was there before.
    pub(crate) fn sift<'a>(&mut self, messages: &'a [Message]) -> Sifted<'a> {
        let mut sifted = Sifted {
            new: Cow::Borrowed(messages),
            identities: Vec::with_capacity(messages.len()),
            duplicates: 0,
            unidentified: 0,
        };
        for (index, message) in messages.iter().enumerate() {
            let is_new = match self.identity(message) {
                None => {
                    sifted.unidentified += 1;
                    true
                }
                Some(identity) => {
                    let is_new = self.window.is_new(identity);
                    if is_new {
                        sifted.identities.push(identity);
                    }
                    is_new
                }
            };
            if !is_new {
                sifted.duplicates += 1;
                if let Cow::Borrowed(_) = sifted.new {
                    sifted.new = Cow::Owned(messages[..index].to_vec());
                }
            } else if let Cow::Owned(new) = &mut sifted.new {
                new.push(message.clone());
            }
        }
        sifted
    }

    /// The first 128 bits of SHA-256 over topic and identity.
    fn identity(&self, message: &Message) -> Option<Identity> {
        let found;
        let named: &[u8] = match &self.field {
            Some(field) => {
                found = field.find(&message.payload)?;
                &found
            }
            None => message.identity.as_ref()?,
        };
        let digest = Sha256::new()
            .chain_update((message.topic.len() as u64).to_le_bytes())
            .chain_update(message.topic.as_bytes())
            .chain_update(named)
            .finalize();
        digest.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_domain::Arrival;
    use tidegate_pipeline::decode::As;

    use super::*;

    fn message(topic: &str, payload: &str, identity: Option<&str>) -> Message {
        Message {
            source: 0,
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            arrival: Arrival::default(),
            ack: None,
            redelivered: false,
            identity: identity.map(|identity| Bytes::copy_from_slice(identity.as_bytes())),
        }
    }

    fn payloads(sifted: &Sifted<'_>) -> Vec<String> {
        let text = |message: &Message| String::from_utf8(message.payload.to_vec()).unwrap();
        sifted.new.iter().map(text).collect()
    }

    #[test]
    fn a_batch_keeps_the_first_of_each_and_whatever_has_no_identity() {
        let mut duplicates = Duplicates::new(None, 10, &[]);
        let batch = [
            message("a", "1", Some("x")),
            message("a", "2", None),
            message("a", "3", Some("x")),
            message("b", "4", Some("x")),
            message("a", "5", None),
            message("a", "6", Some("y")),
        ];
        let sifted = duplicates.sift(&batch);
        assert_eq!(payloads(&sifted), ["1", "2", "4", "5", "6"]);
        assert_eq!((sifted.duplicates, sifted.unidentified), (1, 2));
        assert_eq!(sifted.identities.len(), 3);

        // After a restart the committed ones are known.
        let mut again = Duplicates::new(None, 10, &sifted.identities);
        let sifted = again.sift(&batch);
        assert_eq!(payloads(&sifted), ["2", "5"]);
        assert_eq!((sifted.duplicates, sifted.unidentified), (4, 2));
        assert_eq!(sifted.identities, [] as [Identity; 0]);
    }

    #[test]
    fn a_field_is_read_out_of_the_payload_and_a_whole_batch_is_not_copied() {
        let field = IdentityField::new(&As::Json, "id").unwrap();
        let mut duplicates = Duplicates::new(Some(field), 10, &[]);
        let batch = [
            message("a", r#"{"id":1}"#, Some("ignored")),
            message("a", r#"{"id":2}"#, Some("ignored")),
            message("a", "{", None),
        ];
        let sifted = duplicates.sift(&batch);
        assert!(matches!(sifted.new, Cow::Borrowed(_)));
        assert_eq!((sifted.duplicates, sifted.unidentified), (0, 1));
        assert_eq!(payloads(&duplicates.sift(&batch)), ["{"]);
    }
}
