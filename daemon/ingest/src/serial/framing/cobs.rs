//! Consistent overhead byte stuffing: Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2), 1999.

/// Data bytes of the longest block.
const BLOCK: usize = 254;

/// Bytes on the line, without the zero, of a frame of `length` bytes at most.
pub(super) fn longest(length: usize) -> usize {
    length + length / BLOCK + 1
}

/// What stands before a zero, none of it zero. `None` where a block is shorter than its code says.
pub(super) fn decode(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(raw.len());
    while let Some((&code, rest)) = raw.split_first() {
        let data = usize::from(code).checked_sub(1)?;
        let (block, rest) = rest.split_at_checked(data)?;
        frame.extend_from_slice(block);
        // A block below the longest stands for a zero behind it, but for the last one.
        if data < BLOCK && !rest.is_empty() {
            frame.push(0);
        }
        raw = rest;
    }
    Some(frame)
}
