//! The bytes of a protobuf message as fields by number.

use super::ProtobufError;

/// A field's value as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire<'a> {
    /// A number in as many bytes as it needs.
    Varint(u64),
    /// A number in eight bytes.
    Fixed64(u64),
    /// A number in four bytes.
    Fixed32(u32),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order they were sent.
pub fn read(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Wire<'_>), ProtobufError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let next = field(&mut bytes);
        if next.is_err() {
            // Nothing after it means anything.
            bytes = &[];
        }
        Some(next)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Wire<'a>), ProtobufError> {
    let key = varint(bytes)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => Wire::Fixed64(u64::from_le_bytes(fixed(bytes)?)),
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| ProtobufError::Malformed)?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(fixed(bytes)?)),
        _ => return Err(ProtobufError::Malformed),
    };
    Ok((key >> 3, wire))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtobufError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(ProtobufError::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ProtobufError> {
    take(bytes, N)?.try_into().map_err(|_| ProtobufError::Malformed)
}

/// Takes a number in as many bytes as it needs.
///
/// # Errors
/// Where it does not end.
pub fn varint(bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = fixed(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ProtobufError::Malformed)
}
