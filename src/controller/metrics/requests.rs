//! A client that counts what it asks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::{BoxError, Service};

use super::Metrics;

/// That client, with each request counted once it is answered. A watch is answered when it begins.
pub fn counted(client: Client, metrics: Arc<Metrics>) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Counted { client, metrics }, namespace)
}

#[derive(Clone)]
struct Counted {
    client: Client,
    metrics: Arc<Metrics>,
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each request waits for room by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { client, metrics } = self.clone();
        Box::pin(async move {
            let method = request.method().clone();
            let answer = client.send(request).await;
            metrics.process.request(&method, answer.as_ref().ok().map(Response::status));
            // As an error of kube's own it reaches whoever asked as it is.
            Ok(answer?)
        })
    }
}
