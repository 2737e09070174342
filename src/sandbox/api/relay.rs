//! Passing a request on to another HTTP server, with all that the connection becomes afterwards.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::auth::User;

/// Who this server is to nodes: the name that clusters give it.
const NODE_CLIENT: &str = "kube-apiserver-kubelet-client";
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What this server proves itself with to nodes, who ask it back in a TokenReview. It opens nothing else.
#[derive(Debug)]
pub struct NodeToken(String);

impl NodeToken {
    /// A fresh one: it lives as long as this process.
    ///
    /// # Errors
    /// Where there are no random numbers.
    pub fn new() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("no random numbers"))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The user it stands for.
    pub fn user(&self, token: &str) -> Option<User> {
        let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        (digest(token).as_ref() == digest(&self.0).as_ref()).then(|| User::system(NODE_CLIENT))
    }

    /// As a node is sent it.
    pub fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Why a request could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Nobody is there.
    #[error("dial tcp {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It does not speak HTTP, or stopped to.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It cannot be asked that.
    #[error(transparent)]
    Request(#[from] http::Error),
}

/// Passes a request on to that address, and the answer back. Where the answer changes the protocol, the two connections
/// are joined until one of them ends, or the server stops.
///
/// # Errors
/// Where there is no answer.
pub async fn relay(
    address: &str,
    path: &str,
    request: Request,
    authorization: Option<HeaderValue>,
    stop: &CancellationToken,
) -> Result<Response, RelayError> {
    let connect = |source| RelayError::Connect { address: address.to_owned(), source };
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let stream = stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the response has been read or dropped.
    tokio::spawn(connection.with_upgrades());
    let (mut parts, body) = request.into_parts();
    let upgrades = parts.headers.contains_key(header::UPGRADE);
    let near = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut onward = Request::builder().method(parts.method).uri(path).body(body)?;
    *onward.headers_mut() = passed_on(&parts.headers, upgrades);
    onward.headers_mut().insert(header::HOST, HeaderValue::from_str(address).map_err(http::Error::from)?);
    if let Some(authorization) = authorization {
        onward.headers_mut().insert(header::AUTHORIZATION, authorization);
    }
    let mut answer = sender.send_request(onward).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut answer);
        if let Some(near) = near {
            tokio::spawn(join(near, far, stop.clone()));
        }
    } else {
        remove_hop_headers(answer.headers_mut());
    }
    Ok(answer.map(Body::new))
}

/// Joins two connections that speak something else than HTTP by now.
async fn join(near: hyper::upgrade::OnUpgrade, far: hyper::upgrade::OnUpgrade, stop: CancellationToken) {
    let (near, far) = match tokio::try_join!(near, far) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection did not change its protocol");
            return;
        }
    };
    let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
    tokio::select! {
        // Either side may just go; that is no news.
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = stop.cancelled() => {}
    }
}

/// The headers that the other side is told: none that are about this connection, or about who the caller is.
fn passed_on(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut headers = headers.clone();
    let upgrade = headers.get(header::UPGRADE).cloned();
    remove_hop_headers(&mut headers);
    headers.remove(header::AUTHORIZATION);
    let about_caller = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    let names: Vec<HeaderName> = headers.keys().filter(|name| about_caller(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade.filter(|_| upgrades) {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    headers
}

fn remove_hop_headers(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER]
    {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_this_connection_or_the_caller_stays_here() {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "somebody"),
            ("impersonate-extra-x", "y"),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ];
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let names = |upgrades| {
            let passed = passed_on(&headers, upgrades);
            let mut names: Vec<String> = passed.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(true), ["connection", "sec-websocket-protocol", "upgrade"]);
        assert_eq!(names(false), ["sec-websocket-protocol"]);
    }

    #[test]
    fn a_token_is_nobody_elses() {
        let (one, two) = (NodeToken::new().unwrap(), NodeToken::new().unwrap());
        assert_eq!(one.user(&one.0).unwrap().username, NODE_CLIENT);
        assert!(one.user(&two.0).is_none() && one.user("").is_none());
    }
}
