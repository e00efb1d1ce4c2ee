//! Numbers of as many bytes as they need: seven bits a byte, the lower ones first (LEB128).

pub(crate) fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while let Some(rest) = Some(number >> 7).filter(|&rest| rest > 0) {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number = rest;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// Takes a number from the front. `None` if there is none, or one of more than 64 bits.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7F);
        number |= bits << shift;
        if bits << shift >> shift != bits {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
