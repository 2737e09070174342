//! What a reader shows of themselves.

use std::fmt;

use axum::http::{HeaderMap, header};
use ring::digest::{SHA256, digest};

/// Longer ones are no token of any cluster, and nobody is asked about them.
const LONGEST: usize = 16 * 1024;

/// A bearer token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

impl Token {
    /// That of a request; none where it has none, or more than one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let (header, None) = (all.next()?, all.next()) else { return None };
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        let fits = !token.is_empty() && token.len() <= LONGEST && !token.contains(' ');
        (scheme.eq_ignore_ascii_case("bearer") && fits).then(|| Self(token.to_owned()))
    }

    /// What is kept of it: enough to know it again, and nothing to show to anybody.
    pub fn key(&self) -> Vec<u8> {
        digest(&SHA256, self.0.as_bytes()).as_ref().to_vec()
    }

    /// The token itself, for the one that is asked about it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(values: &[&str]) -> Option<Token> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        Token::of(&headers)
    }

    #[test]
    fn only_one_bearer_token_is_one() {
        let long = format!("Bearer {}", "x".repeat(LONGEST + 1));
        let longest = format!("Bearer {}", "x".repeat(LONGEST));
        for (values, known) in [
            (&["Bearer a.b.c"][..], true),
            (&["bearer  a.b.c "], true),
            (&[&longest], true),
            (&[&long], false),
            (&[], false),
            (&["Bearer"], false),
            (&["Bearer "], false),
            (&["Bearer a b"], false),
            (&["Basic YTpi"], false),
            (&["Bearer a", "Bearer b"], false),
        ] {
            assert_eq!(token(values).is_some(), known, "{values:?}");
        }
        assert_eq!(token(&["bearer  a.b.c "]), token(&["Bearer a.b.c"]));
    }

    #[test]
    fn a_token_is_not_shown_and_known_again() {
        let one = token(&["Bearer secret"]).unwrap();
        assert_eq!(format!("{one:?}"), "Token");
        assert_eq!(one.key(), token(&["Bearer secret"]).unwrap().key());
        assert_ne!(one.key(), token(&["Bearer secrex"]).unwrap().key());
        assert!(!one.key().windows(6).any(|part| part == b"secret"));
    }
}
