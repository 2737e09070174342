//! Messages as servers write them.

/// A message of that type.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

/// `ReadyForQuery`.
pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// `DataRow`.
pub(crate) fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

/// `ErrorResponse` (`E`) or `NoticeResponse` (`N`).
pub(crate) fn report(kind: u8, severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(kind, format!("S{severity}\0V{severity}\0C{code}\0M{text}\0Ftest.c\0\0").as_bytes())
}
