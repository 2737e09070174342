//! Taking secrets out of text: those that are known, wherever they stand and however they are written, and what looks like
//! one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use regex::{Captures, Regex};
use serde_json::{Map, Value, json};

/// What stands in the place of a secret.
const GONE: &str = "[redacted]";
/// Keys of Secrets whose values are no secrets: where a database is, and under which name one logs in. Their values stand in
/// many objects.
const OPEN: [&str; 8] = ["username", "user", "host", "port", "dbname", "database", "region", "endpoint"];
/// A shorter value is only looked for as a whole word: it would be found in the middle of others.
const SHORT: usize = 8;
/// A shorter one is not looked for at all: a word of two letters hides nothing, and would tear every text apart.
const NOTHING: usize = 3;
/// A shorter line of a value of several lines is not looked for by itself.
const LINE: usize = 16;

/// What looks like a secret, and which of its groups stay.
const PATTERNS: [&str; 12] = [
    // postgres://user:password@host, and any other URL with a password.
    r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s/:@\x22'<>]*:)[^\s/@\x22'<>]+(?P<rest>@)",
    // libpq's words, flags and settings: password=x, --password x, PGPASSWORD: x, sslpassword = 'x'.
    r#"(?i)(?P<keep>\b[a-z0-9_.-]*(?:password|passwd|passphrase|pgpass)\b\\?["']?[ \t]*(?:[:=]|=>)[ \t]*)(?:\\?"[^"\\]+\\?"|'[^']+'|[^\s,;&"'\\}\]]+)"#,
    // SQL: PASSWORD 'x'.
    r"(?i)(?P<keep>\bpassword\s+)(?:'(?:[^']|'')*'|\x22[^\x22]*\x22)",
    r#"(?i)(?P<keep>\b[a-z0-9_.-]*(?:secret[_-]?(?:access[_-]?)?key|[_-]secret|api[_-]?key|account[_-]?key|access[_-]?token|session[_-]?token|client[_-]?secret|private[_-]?key)\\?["']?[ \t]*[:=][ \t]*\\?["']?)[^\s,;&"'\\}\]]{6,}"#,
    r"(?i)(?P<keep>\bauthorization\\?[\x22']?\s*[:=]\s*\\?[\x22']?(?:basic|bearer)\s+)[A-Za-z0-9._~+/=-]+",
    r"(?i)(?P<keep>\b(?:basic|bearer)\s+)[A-Za-z0-9._~+/=-]{16,}",
    // Hashes that PostgreSQL keeps of passwords, from which logins can be made or passwords guessed.
    r"(?P<keep>SCRAM-SHA-256\$)[^\s'\x22,]+",
    r"(?P<keep>\bmd5)[0-9a-f]{32}\b",
    // Tokens of service accounts, and of others of that form.
    r"(?P<keep>)\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"(?P<keep>)(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    // Signed URLs.
    r"(?i)(?P<keep>[?&](?:x-amz-signature|x-amz-credential|x-amz-security-token|sig|signature)=)[^\s&\x22']+",
    r"(?s)(?P<keep>)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
];

/// Why nothing can be taken out of text.
#[derive(Debug, thiserror::Error)]
#[error("read the patterns of secrets: {0}")]
pub struct RedactError(#[from] regex::Error);

/// All that is known of secrets.
#[derive(Debug)]
pub struct Redactor {
    /// Values in all their forms, the longest first, and what is written in their place.
    known: Vec<(String, String)>,
    patterns: Vec<Regex>,
}

impl Redactor {
    /// Of the values of Secrets, by `SECRET/KEY`.
    ///
    /// # Errors
    /// Where a pattern is none.
    pub fn new(values: &BTreeMap<String, Vec<u8>>) -> Result<Self, RedactError> {
        let mut known: Vec<(String, String)> = Vec::new();
        for (place, value) in values {
            let key = place.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
            if OPEN.contains(&key.as_str()) || value.len() < NOTHING {
                continue;
            }
            let gone = format!("[redacted: {place}]");
            known.extend(forms(value).into_iter().map(|form| (form, gone.clone())));
        }
        // A value may be a part of another one, as a password is of a URL.
        known.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        known.dedup_by(|a, b| a.0 == b.0);
        let patterns = PATTERNS.iter().map(|pattern| Regex::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { known, patterns })
    }

    /// The text without them.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, gone) in &self.known {
            if !text.contains(value.as_str()) {
                continue;
            }
            text = if value.len() < SHORT { words(&text, value, gone) } else { text.replace(value, gone) };
        }
        for pattern in &self.patterns {
            let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                let group = |name| found.name(name).map_or("", |found| found.as_str());
                let (whole, keep, rest) =
                    (found.get(0).map_or("", |found| found.as_str()), group("keep"), group("rest"));
                // What is taken out already says more.
                let value = whole.strip_prefix(keep).unwrap_or(whole).trim_start_matches(['\'', '"', '\\']);
                if value.starts_with("[redacted:") {
                    return whole.to_owned();
                }
                format!("{keep}{GONE}{rest}")
            });
            text = replaced.into_owned();
        }
        text
    }
}

/// A value in all the ways in which it is written: as it is, in JSON, in a URL, and in base64, also in the middle of more.
fn forms(value: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    if let Ok(text) = std::str::from_utf8(value) {
        all.push(text.to_owned());
        all.push(text.trim().to_owned());
        let quoted = Value::from(text).to_string();
        all.push(quoted.trim_matches('"').to_owned());
        all.push(utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
        all.extend(form_urlencoded::byte_serialize(value).map(str::to_owned).reduce(|a, b| a + &b));
        all.extend(text.lines().map(str::trim).filter(|line| line.len() >= LINE).map(str::to_owned));
    }
    all.push(STANDARD.encode(value));
    all.push(URL_SAFE_NO_PAD.encode(value));
    // Where something stands before and after it, its first and last letters are shared with that.
    if value.len() >= SHORT {
        for before in 0..3_usize {
            let mut whole = vec![0; before];
            whole.extend_from_slice(value);
            let encoded = STANDARD_NO_PAD.encode(&whole);
            let start = before.saturating_mul(4).div_ceil(3);
            let end = (whole.len() / 3).saturating_mul(4);
            all.extend(encoded.get(start..end).map(str::to_owned));
        }
    }
    all.retain(|form| form.len() >= NOTHING);
    all
}

/// Replaces a value where neither a letter nor a digit stands beside it.
fn words(text: &str, value: &str, gone: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(value) {
        let (before, found) = rest.split_at(at);
        let after = found.get(value.len()..).unwrap_or_default();
        let beside = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        out.push_str(before);
        out.push_str(if beside(before.chars().next_back()) || beside(after.chars().next()) {
            value
        } else {
            gone
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A Secret with the name and length of each value in place of the value. Nothing else of it may hold a value: what was last
/// applied does.
pub fn secret(object: &mut Value) {
    for field in ["data", "stringData"] {
        let Some(values) = object.get_mut(field).and_then(Value::as_object_mut) else { continue };
        let told: Map<String, Value> = values
            .iter()
            .map(|(key, value)| {
                let text = value.as_str().unwrap_or_default();
                let length = match field {
                    "data" => STANDARD.decode(text).map_or(text.len(), |bytes| bytes.len()),
                    _ => text.len(),
                };
                (key.clone(), json!(format!("[redacted: {length} bytes]")))
            })
            .collect();
        *values = told;
    }
    if let Some(notes) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        notes.retain(|key, _| key != "kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        let values = [
            ("db-app/password", "Zx9-kq7&Lm2/pW+4"),
            ("db-app/username", "app"),
            ("db-app/uri", "postgresql://app:Zx9-kq7&Lm2/pW+4@db:5432/app"),
            ("keys/pin", "4711"),
            ("keys/empty", ""),
            ("keys/file", "{\n  \"private_key_id\": \"0123456789abcdef0123\"\n}\n"),
        ];
        let values = values.map(|(place, value)| (place.to_owned(), value.as_bytes().to_vec()));
        Redactor::new(&BTreeMap::from(values)).unwrap()
    }

    #[test]
    fn what_is_known_is_found_in_every_dress() {
        let redactor = redactor();
        let password = "Zx9-kq7&Lm2/pW+4";
        let encoded = |text: &str| STANDARD.encode(text);
        for text in [
            password.to_owned(),
            format!("said {password}."),
            encoded(password),
            encoded(&format!("app:{password}")),
            encoded(&format!("{{\"auths\":\"{password}\"}}")),
            utf8_percent_encode(password, NON_ALPHANUMERIC).to_string(),
            form_urlencoded::byte_serialize(password.as_bytes()).collect(),
            json!({ "a": password }).to_string(),
            "x 0123456789abcdef0123 \"private_key_id\": \"0123456789abcdef0123\" y".to_owned(),
            "the pin is 4711, and not 14711".to_owned(),
        ] {
            let out = redactor.text(&text);
            assert!(out.contains("[redacted"), "{text}: {out}");
            for form in [password, "kq7", "a3E3", "\"0123456789abcdef0123\"", " 4711"] {
                assert!(!out.contains(form), "{text}: {out}");
            }
        }
        assert_eq!(redactor.text("app@db:5432, 14711"), "app@db:5432, 14711");
        assert_eq!(redactor.text("the pin 4711"), "the pin [redacted: keys/pin]");
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_and_the_rest_stays() {
        let redactor = Redactor::new(&BTreeMap::new()).unwrap();
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl";
        for (text, expected) in [
            ("postgres://app:hunter2@db:5432/app", "postgres://app:[redacted]@db:5432/app"),
            ("host=db password=hunter2 user=app", "host=db password=[redacted] user=app"),
            ("PGPASSWORD: 'hunter2'", "PGPASSWORD: [redacted]"),
            (r#"{"superuser-password": "hunter2", "x": 1}"#, r#"{"superuser-password": [redacted], "x": 1}"#),
            (r#"{\"password\":\"hunter2\"}"#, r#"{\"password\":[redacted]}"#),
            ("ALTER ROLE app PASSWORD 'hunter''2'", "ALTER ROLE app PASSWORD [redacted]"),
            ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=[redacted]"),
            ("aws_secret_access_key: wJalrXUtnFEMI", "aws_secret_access_key: [redacted]"),
            ("Authorization: Basic ZGJjdGw6c2VjcmV0", "Authorization: Basic [redacted]"),
            ("rolpassword is SCRAM-SHA-256$4096:abc$def:ghi", "rolpassword is SCRAM-SHA-256$[redacted]"),
            ("md50123456789abcdef0123456789abcdef", "md5[redacted]"),
            ("https://s/o?X-Amz-Signature=abc&x=1", "https://s/o?X-Amz-Signature=[redacted]&x=1"),
            ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
            ("a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb", "a\n[redacted]\nb"),
            // What only speaks of one is no secret.
            (
                "password authentication failed for user \"app\"",
                "password authentication failed for user \"app\"",
            ),
            ("https://10.0.0.1:6443/api", "https://10.0.0.1:6443/api"),
            ("secretName: keys", "secretName: keys"),
            ("password=[redacted: db-app/password] x", "password=[redacted: db-app/password] x"),
            // What is taken out already keeps what is said of it.
            ("rest-password: '[redacted: 24 bytes]'", "rest-password: '[redacted: 24 bytes]'"),
            ("credentialsSecret: backup-keys", "credentialsSecret: backup-keys"),
            ("secret:\n  defaultMode: 420", "secret:\n  defaultMode: 420"),
            ("client_secret=0123456789", "client_secret=[redacted]"),
        ] {
            assert_eq!(redactor.text(text), expected, "{text}");
        }
        assert_eq!(redactor.text(&format!("token {jwt}!")), "token [redacted]!");
    }

    #[test]
    fn of_a_secret_names_and_lengths_stay() {
        let applied = json!({ "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"a\":\"aHVudGVyMg==\"}}", "x": "y" });
        let mut object = json!({ "metadata": { "name": "s", "annotations": applied }, "data": { "a": "aHVudGVyMg==" }, "stringData": { "b": "xyz" } });
        secret(&mut object);
        assert_eq!(
            object,
            json!({ "metadata": { "name": "s", "annotations": { "x": "y" } }, "data": { "a": "[redacted: 7 bytes]" }, "stringData": { "b": "[redacted: 3 bytes]" } })
        );
    }

    #[test]
    fn every_place_in_a_longer_text_is_found_in_base64() {
        let redactor = redactor();
        for before in 0..6 {
            for after in 0..6 {
                let text = format!("{}Zx9-kq7&Lm2/pW+4{}", "b".repeat(before), "a".repeat(after));
                let out = redactor.text(&STANDARD.encode(text));
                assert!(out.contains("[redacted"), "{before} {after}: {out}");
            }
        }
    }
}
