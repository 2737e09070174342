//! s3s-fs: S3 over a directory, in this process. It checks signatures and checksums, and starts at once.
//!
//! It knows no permissions and no list of uploads, and of several that create one key at once more than one may win.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{BUCKET, Key, listen, threads};

/// A running server with one bucket and one key.
pub struct S3sFs {
    address: SocketAddr,
    key: Key,
    threads: Option<Runtime>,
    files: TempDir,
}

impl S3sFs {
    pub fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::create_dir(files.path().join(BUCKET)).unwrap();
        let key = Key::new("AKIATEST", "secret/of+the-test");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(files.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(key.id.as_str(), key.secret.as_str()));
        let service = service.build();
        let (listener, address) = listen();
        let threads = threads();
        threads.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                // Too many open files, say: others may close theirs.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                // A client that goes away ends its connection and no more.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone()));
            }
        });
        Self { address, key, threads: Some(threads), files }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn key(&self) -> Key {
        self.key.clone()
    }

    /// The directory that holds the bucket's objects as files.
    pub fn bucket(&self) -> PathBuf {
        self.files.path().join(BUCKET)
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
