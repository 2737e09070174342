//! One connection of a client's, and its requests.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{HeaderName, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::body::{self, Body, Error};
use super::door::Door;
use super::rule::{Action, Refusal, choose};
use super::{Asked, Shared, hostile};

/// Serves a client until it goes, or is to be thrown out.
pub(super) async fn connection(stream: TcpStream, shared: Arc<Shared>, all: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    // Of this connection alone.
    let reset = all.child_token();
    let service = service_fn(|request| answer(request, Arc::clone(&shared), reset.clone()));
    let served = hyper::server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = served => {}
        () = reset.cancelled() => abort(&socket),
    }
}

/// From now on its close is a reset: the other side sees an error, whatever was on its way.
fn abort(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// One request. An `Err` ends the connection.
async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reset: CancellationToken,
) -> Result<Response<Body>, Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let key = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    let method = request.method().clone();
    let (index, action, key_of_hostile, black) = {
        let mut state = shared.state();
        let action = choose(&mut state.rules, &method, &key);
        state.arrived += 1;
        let index = state.arrived;
        state.asked.insert(index, Asked { method, key, store: None, answer: None });
        (index, action, state.hostile.clone(), state.door == Door::Black)
    };
    if black {
        return std::future::pending().await;
    }
    let mut request = request.map(body::boxed);
    if let Some(key) = key_of_hostile {
        let (mut head, body) = request.into_parts();
        hostile::without_conditions(&mut head, &key);
        request = Request::from_parts(head, body);
    }
    let response = match action {
        Some(Action::Hang) => return std::future::pending().await,
        Some(Action::ResetBefore) => return thrown_out(&reset).await,
        Some(Action::Refuse(refusal)) => {
            drain(request.into_body()).await?;
            refused(refusal)
        }
        Some(Action::RefuseUnread(refusal)) => {
            let mut response = refused(refusal);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Some(Action::Slow(rate)) => {
            let request = request.map(|body| body::slowed(body, rate));
            forward(request, &shared, index, &reset).await?.map(|body| body::slowed(body, rate))
        }
        Some(Action::ResetAfter) => {
            drain(forward(request, &shared, index, &reset).await?.into_body()).await?;
            return thrown_out(&reset).await;
        }
        Some(Action::Truncate(length)) => {
            forward(request, &shared, index, &reset).await?.map(|body| body::truncated(body, length))
        }
        Some(Action::Flip(at)) => {
            let response = forward(request, &shared, index, &reset).await?;
            let length =
                response.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok());
            let last = length.unwrap_or(u64::MAX).saturating_sub(1);
            response.map(|body| body::flipped(body, at.min(last)))
        }
        None => forward(request, &shared, index, &reset).await?,
    };
    note(&shared, index, |asked| asked.answer = Some(response.status().as_u16()));
    Ok(response)
}

/// The record may have been cleared since.
fn note(shared: &Shared, index: u64, change: impl FnOnce(&mut Asked)) {
    if let Some(asked) = shared.state().asked.get_mut(&index) {
        change(asked);
    }
}

async fn thrown_out<T>(reset: &CancellationToken) -> T {
    reset.cancel();
    std::future::pending().await
}

/// Reads a body to its end and keeps nothing of it.
async fn drain(mut body: Body) -> Result<(), Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Asks the store, over a connection of this request's own, so that no earlier fault can touch it. If there is no store,
/// the client's connection is reset, as the network would.
async fn forward(
    request: Request<Body>,
    shared: &Shared,
    index: u64,
    reset: &CancellationToken,
) -> Result<Response<Body>, Error> {
    let Ok(response) = ask(request, shared).await else { return thrown_out(reset).await };
    note(shared, index, |asked| asked.store = Some(response.status().as_u16()));
    let mut response = response.map(body::boxed);
    // The store's connection ends with its answer; the client's goes on.
    for name in [CONNECTION, HeaderName::from_static("keep-alive")] {
        response.headers_mut().remove(name);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

async fn ask(request: Request<Body>, shared: &Shared) -> Result<Response<Incoming>, Error> {
    let stream = TcpStream::connect(shared.store).await?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// S3's form of an error.
fn refused(refusal: Refusal) -> Response<Body> {
    let Refusal { status, code, message } = refusal;
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <RequestId>PROXY</RequestId></Error>"
    );
    let body = Full::new(Bytes::from(text)).map_err(Error::from).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
