//! How a client and a server prove themselves to each other. Pure.
//!
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::error::{ServerError, garbage};

/// What follows from a message.
pub(super) enum Reply {
    /// The next one is awaited.
    Wait,
    /// This goes to the server.
    Send(BytesMut),
    /// The session is open.
    Open,
}

/// A login on its way.
pub(super) struct Login<'a> {
    password: Option<&'a str>,
    stage: Stage,
}

enum Stage {
    /// The server says what it wants.
    Start,
    /// We named ourselves.
    Named(ScramSha256),
    /// We proved that we know the password.
    Proven(ScramSha256),
    /// So did the server.
    Mutual,
    /// The server is content.
    Accepted,
    /// It came to nothing.
    Failed,
}

impl<'a> Login<'a> {
    /// One with that password, if there is one.
    pub(super) fn new(password: Option<&'a str>) -> Self {
        Self { password, stage: Stage::Start }
    }

    /// Takes the server's next message.
    pub(super) fn take(&mut self, message: &Message) -> Result<Reply, ServerError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let (stage, reply) = match (stage, message) {
            (Stage::Start, Message::AuthenticationSasl(body)) => {
                let scram = self.scram(body)?;
                let mut bytes = BytesMut::new();
                frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut bytes)
                    .map_err(failed)?;
                (Stage::Named(scram), Reply::Send(bytes))
            }
            (Stage::Named(mut scram), Message::AuthenticationSaslContinue(body)) => {
                scram.update(body.data()).map_err(failed)?;
                let mut bytes = BytesMut::new();
                frontend::sasl_response(scram.message(), &mut bytes).map_err(failed)?;
                (Stage::Proven(scram), Reply::Send(bytes))
            }
            (Stage::Proven(mut scram), Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(failed)?;
                (Stage::Mutual, Reply::Wait)
            }
            // Without a password being asked for, too: the server's rules may trust whoever comes this way.
            (Stage::Start | Stage::Mutual, Message::AuthenticationOk) => (Stage::Accepted, Reply::Wait),
            (Stage::Accepted, Message::BackendKeyData(_)) => (Stage::Accepted, Reply::Wait),
            (Stage::Accepted, Message::ReadyForQuery(_)) => (Stage::Accepted, Reply::Open),
            (Stage::Start, message) => return Err(ServerError::Login(foreign(message).to_owned())),
            _ => return Err(garbage("it sent an unexpected message in the middle of a login")),
        };
        self.stage = stage;
        Ok(reply)
    }

    fn scram(&self, offered: &AuthenticationSaslBody) -> Result<ScramSha256, ServerError> {
        let mechanisms: Vec<&str> = offered.mechanisms().collect().map_err(garbage)?;
        if !mechanisms.contains(&SCRAM_SHA_256) {
            let offered = mechanisms.join(", ");
            return Err(ServerError::Login(format!("the server offers {offered}, and not {SCRAM_SHA_256}")));
        }
        let password = self.password.ok_or_else(|| {
            ServerError::Login("the server wants a password, and there is none for this user".to_owned())
        })?;
        Ok(ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported()))
    }
}

fn failed(error: std::io::Error) -> ServerError {
    ServerError::Login(error.to_string())
}

/// What the server wants instead. A password is not sent to whoever asks for it.
fn foreign(message: &Message) -> &'static str {
    match message {
        Message::AuthenticationCleartextPassword => "the server wants the password itself, not a proof of it",
        Message::AuthenticationMd5Password(_) => {
            "the server wants the password as MD5: set it anew with password_encryption = scram-sha-256"
        }
        Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5 => {
            "the server wants a Kerberos ticket"
        }
        _ => "what answered does not speak like a PostgreSQL server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::server::frame::frame;
    use crate::backup::server::tests::bytes::{message, ready};

    fn authentication(kind: u32, rest: &[u8]) -> Vec<u8> {
        message(b'R', &[&kind.to_be_bytes(), rest].concat())
    }

    fn sasl() -> Vec<u8> {
        authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    }

    /// The outcome of the last of these messages.
    fn outcome(password: Option<&str>, messages: &[Vec<u8>]) -> Result<Reply, ServerError> {
        let mut login = Login::new(password);
        let mut last = Ok(Reply::Wait);
        for bytes in messages {
            let message = frame(&mut BytesMut::from(bytes.as_slice())).unwrap().unwrap();
            last = login.take(&message);
        }
        last
    }

    #[test]
    fn who_is_trusted_needs_no_password() {
        let ok = authentication(0, b"");
        let key = message(b'K', &[0; 8]);
        assert!(matches!(outcome(None, &[ok, key, ready()]), Ok(Reply::Open)));
    }

    #[test]
    fn a_password_is_proven_and_never_sent() {
        let Ok(Reply::Send(first)) = outcome(Some("secret"), &[sasl()]) else { panic!() };
        let first = String::from_utf8_lossy(&first);
        assert!(first.contains("SCRAM-SHA-256\0") && first.contains("n,,n=,r="), "{first}");
        let cases: [(&[Vec<u8>], &str); 6] = [
            (&[authentication(3, b"")], "log in: the server wants the password itself"),
            (&[authentication(5, b"salt")], "log in: the server wants the password as MD5"),
            (&[authentication(7, b"")], "log in: the server wants a Kerberos ticket"),
            (&[authentication(10, b"OTHER\0\0")], "log in: the server offers OTHER, and not SCRAM-SHA-256"),
            (&[sasl(), authentication(11, b"r=other,s=AAAA,i=4096")], "log in: invalid nonce"),
            (&[ready()], "log in: what answered does not speak like a PostgreSQL server"),
        ];
        for (messages, expected) in cases {
            let Err(error) = outcome(Some("secret"), messages) else { panic!("{expected}") };
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let Err(error) = outcome(None, &[sasl()]) else { panic!() };
        assert!(error.to_string().contains("there is none for this user"), "{error}");
    }

    #[test]
    fn a_server_that_skips_its_own_proof_is_not_believed() {
        let ok = authentication(0, b"");
        assert!(outcome(Some("secret"), &[sasl(), ok.clone()]).is_err());
        assert!(outcome(Some("secret"), &[sasl(), authentication(12, b"v=AAAA")]).is_err());
        // Nor is anything after that.
        assert!(outcome(Some("secret"), &[sasl(), ok.clone(), ok, ready()]).is_err());
        // Lists without an end.
        assert!(outcome(Some("secret"), &[authentication(10, b"SCRAM-SHA-256")]).is_err());
        assert!(outcome(Some("secret"), &[authentication(10, b"")]).is_err());
    }
}
