//! Removing what may not be there.

use std::io;

/// What a removal came to, where that nothing was there is as good.
///
/// # Errors
/// Where it may still be there.
pub fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
