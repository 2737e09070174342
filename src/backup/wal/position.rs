//! Positions in the WAL as PostgreSQL writes them: two hexadecimal halves, `0/3000148`.

/// Reads one, in bytes.
pub fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        ((1..=8).contains(&text.len()) && digits).then(|| u64::from_str_radix(text, 16).ok())?
    };
    Some(half(high)? << 32 | half(low)?)
}

/// Writes one.
pub fn position_text(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}
