//! Randomness: passwords, and jitter so that many databases are not looked at in the same instant.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// Letters and digits only: such a password needs no quoting in a URI, a shell or a connection string.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789aZ";
/// 32 characters of almost six bits each.
const PASSWORD_LENGTH: usize = 32;

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("get randomness from the system")]
pub struct NoRandomness;

/// A fresh password.
///
/// # Errors
/// Where the system gives no randomness.
pub fn password() -> Result<String, NoRandomness> {
    let mut bytes = [0; PASSWORD_LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect())
}

/// The duration, up to a tenth longer.
pub fn jittered(duration: Duration) -> Duration {
    let mut byte = [0; 1];
    let share = SystemRandom::new().fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
    duration + duration * share / 2560
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_plain_and_fresh() {
        let (one, two) = (password().unwrap(), password().unwrap());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(one, two);
    }

    #[test]
    fn jitter_only_adds_and_never_much() {
        for _ in 0..100 {
            let with = jittered(Duration::from_secs(30));
            assert!(with >= Duration::from_secs(30) && with <= Duration::from_secs(33));
        }
    }
}
