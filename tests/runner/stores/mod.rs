//! Object stores for tests: two S3 servers, one of Azure's kind, and a proxy in front of them that does what networks, services and clocks do.
//!
//! Each runs on threads or in a process of its own and is spoken to without `await`, so that it serves plain tests,
//! asynchronous ones and programs that a test starts. Each ends with its value.

mod azurite;
mod facts;
mod moto;
mod packages;
mod proxy;
mod s3s;
mod server;
mod software;
mod tests;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::HttpError;
use object_store::{BackoffConfig, ClientOptions, Error, RetryConfig};

pub use azurite::Azurite;
pub use moto::Moto;
pub use proxy::{Action, FaultProxy, Refusal, Rule};
pub use s3s::S3sFs;
pub use server::{BUCKET, Key, REGION};

use server::{listen, threads};

/// A client's settings for the bucket at that URL. It tries once, and waits for nothing longer than half a minute.
pub fn settings(url: &str, key: &Key) -> AmazonS3Builder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let patience = std::time::Duration::from_secs(30);
    AmazonS3Builder::new()
        .with_endpoint(url)
        .with_region(REGION)
        .with_bucket_name(BUCKET)
        .with_access_key_id(&key.id)
        .with_secret_access_key(&key.secret)
        .with_client_options(
            ClientOptions::new().with_allow_http(true).with_connect_timeout(patience).with_timeout(patience),
        )
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 0,
            retry_timeout: patience,
        })
}

/// A client with those settings.
pub fn client(url: &str, key: &Key) -> AmazonS3 {
    settings(url, key).build().unwrap()
}

/// What came of a call, in short: `ok`, or the error's variant with S3's code or how the connection failed.
pub fn said<T>(result: Result<T, Error>) -> String {
    let Err(error) = result else { return "ok".to_owned() };
    let debug = format!("{error:?}");
    let variant = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    // The errors that hold statuses are the crate's own: what the store said is in the text alone.
    let text = chain(&error);
    let code = regex::Regex::new(r"<Code>(\w+)</Code>|\(code: (\w+)\)").unwrap();
    let code =
        code.captures(&text).and_then(|found| Some(found.get(1).or(found.get(2))?.as_str().to_owned()));
    let kind = find::<HttpError>(&error).map(|error| format!("{:?}", error.kind()));
    match code.or(kind) {
        Some(detail) => format!("{variant} {detail}"),
        None => format!("{variant}: {text}"),
    }
}

/// An error's text and those of its causes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The first of an error and its causes that is of that kind.
pub fn find<'error, E: std::error::Error + 'static>(
    error: &'error (dyn std::error::Error + 'static),
) -> Option<&'error E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Waits for a future wherever one is, also on a thread that already drives others.
fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| crate::external::runtime().block_on(future));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
