//! SLIP, RFC 1055.

pub(super) const END: u8 = 0o300;
const ESC: u8 = 0o333;
const ESC_END: u8 = 0o334;
const ESC_ESC: u8 = 0o335;

/// What stands between two END. `None` where an escape is followed by what it never is: RFC 1055 leaves open what to do, and
/// a frame that is certainly not what was sent is better set aside.
pub(super) fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        frame.push(match byte {
            ESC => match *bytes.next()? {
                ESC_END => END,
                ESC_ESC => ESC,
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(frame)
}
