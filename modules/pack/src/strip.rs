//! Takes names and debug information out of a component. Its code stays the same, byte for byte, so that a place in the
//! code of the one is the same place in the other.

/// Magic and version of a component, and of a core module.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Sections: custom everywhere; a core module and a component inside a component.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const NESTED: u8 = 4;

/// The component without custom sections, but for those that say at its outermost level who made it.
pub(crate) fn strip(component: &[u8]) -> Result<Vec<u8>, String> {
    strip_at(component, true)
}

/// Adds a custom section.
pub(crate) fn mark(component: &mut Vec<u8>, name: &str, text: &str) {
    let mut contents = Vec::new();
    length(&mut contents, name.len());
    contents.extend_from_slice(name.as_bytes());
    contents.extend_from_slice(text.as_bytes());
    section(component, CUSTOM, &contents);
}

fn strip_at(bytes: &[u8], outermost: bool) -> Result<Vec<u8>, String> {
    let early = || "a section ends early".to_owned();
    let (head, mut rest) = bytes.split_at_checked(8).ok_or_else(early)?;
    let component = match head {
        COMPONENT => true,
        MODULE => false,
        _ => return Err("neither a component nor a core module".to_owned()),
    };
    let mut stripped = head.to_vec();
    while let Some((&id, after)) = rest.split_first() {
        let (size, after) = read_length(after).ok_or_else(early)?;
        let (contents, after) = after.split_at_checked(size).ok_or_else(early)?;
        rest = after;
        match id {
            CUSTOM if !outermost || contents.starts_with(b"\x0ecomponent-name") => {}
            CORE_MODULE | NESTED if component => {
                section(&mut stripped, id, &strip_at(contents, false)?);
            }
            _ => section(&mut stripped, id, contents),
        }
    }
    Ok(stripped)
}

fn section(to: &mut Vec<u8>, id: u8, contents: &[u8]) {
    to.push(id);
    length(to, contents.len());
    to.extend_from_slice(contents);
}

/// Unsigned LEB128.
fn length(to: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        to.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return;
        }
    }
}

fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_usize;
    // A u32 has five digits at most.
    for (digit, byte) in bytes.iter().take(5).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[digit + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_loses_its_custom_sections_and_nothing_else() {
        let module = |with: bool| {
            let mut module = MODULE.to_vec();
            section(&mut module, 1, &[1, 0x60, 0, 0]);
            if with {
                mark(&mut module, "name", &"n".repeat(300));
            }
            section(&mut module, 10, &[0; 200]);
            if with {
                mark(&mut module, ".debug_line", "d");
            }
            module
        };
        let component = |with: bool| {
            let mut inner = COMPONENT.to_vec();
            section(&mut inner, CORE_MODULE, &module(with));
            let mut outer = COMPONENT.to_vec();
            section(&mut outer, NESTED, &inner);
            mark(&mut outer, "producers", "p");
            if with {
                mark(&mut outer, "component-name", "c");
            }
            outer
        };
        assert_eq!(strip(&component(true)).unwrap(), component(false));
        assert_eq!(strip(&component(false)).unwrap(), component(false));
        let whole = component(true);
        assert!(strip(&whole[..whole.len() - 1]).is_err());
        assert!(strip(b"#!/bin/sh").is_err());
    }
}
