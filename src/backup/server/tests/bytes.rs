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

/// `RowDescription` of columns that nobody looks at.
pub(crate) fn columns() -> Vec<u8> {
    message(b'T', &[0, 0])
}

/// `CommandComplete`.
pub(crate) fn complete() -> Vec<u8> {
    message(b'C', b"SELECT\0")
}

/// `CopyData`.
pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

/// What precedes the first archive: start point, and the data directory after a tablespace.
pub(crate) fn header() -> Vec<Vec<u8>> {
    vec![
        columns(),
        row(&[Some("0/2000028"), Some("1")]),
        complete(),
        columns(),
        row(&[Some("16385"), Some("/space"), Some("7")]),
        row(&[None, None, Some("100")]),
        complete(),
    ]
}

/// What follows the last copy.
pub(crate) fn footer() -> Vec<Vec<u8>> {
    vec![columns(), row(&[Some("0/2000138"), Some("1")]), complete(), complete(), ready()]
}

/// A base backup as PostgreSQL 15 and later send it.
pub(crate) fn backup(suffix: &str) -> Vec<Vec<u8>> {
    let copy = vec![
        message(b'H', &[0, 0, 0]),
        data(format!("n16385.tar{suffix}\0/space\0").as_bytes()),
        data(b"dsome"),
        data(b"d of it"),
        data(b"p\0\0\0\0\0\0\x1c\0"),
        data(format!("nbase.tar{suffix}\0\0").as_bytes()),
        data(b"dthe rest"),
        data(b"m"),
        data(b"d{}"),
        message(b'c', b""),
    ];
    [header(), copy, footer()].concat()
}

/// The same from PostgreSQL 14.
pub(crate) fn old_backup() -> Vec<Vec<u8>> {
    let (begin, end) = (message(b'H', &[0, 0, 0]), message(b'c', b""));
    let copies = vec![
        begin.clone(),
        data(b"some"),
        data(b" of it"),
        end.clone(),
        begin.clone(),
        data(b"the rest"),
        end.clone(),
        begin,
        data(b"{}"),
        end,
    ];
    [header(), copies, footer()].concat()
}
