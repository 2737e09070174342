//! The API server by its Unix socket, which no fault reaches.

use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::cli::error::{CliError, Result};
use crate::cli::sandbox::kubeconfig;
use crate::sandbox::api::LOCAL_SOCKET;
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// A sandbox that runs.
#[derive(Debug)]
pub struct Local {
    socket: PathBuf,
    token: String,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The `Status`, or what a node says in its own words.
    pub body: Value,
}

impl Refusal {
    /// The message for people.
    pub fn message(&self) -> &str {
        self.body.get("message").or(Some(&self.body)).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Local {
    /// The sandbox of a home.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn connect(home: &Home) -> Result<Self> {
        if !matches!(Daemon::new(home.clone()).state().map_err(CliError::failed)?, State::Ready(_)) {
            return Err(CliError::unhealthy(format!("no sandbox runs in {}", home.root().display()))
                .hint("start it: dbctl sandbox up"));
        }
        let token = kubeconfig::admin_token(&home.state())
            .map_err(|error| CliError::failed(format!("use the administrator's token: {error}")))?;
        Ok(Self { socket: home.state().join(LOCAL_SOCKET), token })
    }

    /// Sends a request, and reads the answer to it.
    ///
    /// # Errors
    /// Where there is no answer, or it is no success.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.ask(method, path, body).await?.map_err(|refusal| {
            let causes = refusal.body.pointer("/details/causes").and_then(Value::as_array);
            let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
            let causes = causes.into_iter().flatten();
            // The message of a single cause, and of a few, says them already.
            let details: Vec<_> = causes
                .map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message")))
                .filter(|detail| !refusal.message().contains(detail.as_str()))
                .collect();
            match refusal.code {
                404 => CliError::not_found(refusal.message()),
                400 | 422 => CliError::usage(refusal.message()).details(details),
                _ => CliError::failed(format!("set or read faults: {}", refusal.message())),
            }
        })
    }

    /// The same, where a refusal is an answer.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Value, Refusal>> {
        self.exchange(method, path, body).await.map_err(|error| {
            CliError::failed(format!("talk to the sandbox over {}: {error}", self.socket.display()))
                .hint("see what it says: dbctl sandbox logs")
        })
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Value, Refusal>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))?;
        let response = sender.send_request(request).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).trim().to_owned()));
        Ok(if code.is_success() { Ok(body) } else { Err(Refusal { code: code.as_u16(), body }) })
    }
}
