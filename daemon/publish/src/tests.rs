use proptest::prelude::*;
use serde_json::json;

use crate::canonical::canonical;
use crate::metadata::{PublicKey, hex, unhex};

#[test]
fn the_canonical_form_is_the_one_that_others_make() {
    let value = json!({"b": [1, -2, true, null, {}], "a": "ä\"\\\n", "A": u64::MAX});
    let form = String::from_utf8(canonical(&value).unwrap()).unwrap();
    assert_eq!(
        form,
        "{\"A\":18446744073709551615,\"a\":\"ä\\\"\\\\\n\",\"b\":[1,-2,true,null,{}]}"
    );
    assert_eq!(canonical(&json!([1.5])), None);
}

#[test]
fn a_key_is_called_as_the_specification_says() {
    // Made by securesystemslib 1.6.0: SHA-256 of `encode_canonical` of the key.
    let key = PublicKey::ed25519(&[7; 32]);
    assert_eq!(
        key.id(),
        "b6db82967262b4c288a9326762c77b39db2f13d29b51799a526d0ec81001b73b"
    );
}

proptest! {
    #[test]
    fn hex_digits_go_both_ways(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    }
}

#[test]
fn what_are_no_hex_digits_is_nothing() {
    assert_eq!(unhex("0"), None);
    assert_eq!(unhex("0g"), None);
    assert_eq!(unhex("+1"), None);
}
