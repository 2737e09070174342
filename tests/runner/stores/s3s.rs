//! s3s-fs: S3 over a directory, in this process. It checks signatures and checksums, and starts at once.
//!
//! It knows no permissions and no list of uploads, and of several that create one key at once more than one may win. By itself it
//! reads objects in steps of 4 KiB, each by another thread: what is measured would be that. So `Reader` reads them.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, dto};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::io::ReaderStream;

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
        let inner = FileSystem::new(files.path()).unwrap();
        let mut service = S3ServiceBuilder::new(Reader { inner, root: files.path().to_owned() });
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

/// How much is read of an object at once.
const STEP: usize = 1 << 20;

/// The server, but for what an object's bytes are read with.
struct Reader {
    inner: FileSystem,
    root: PathBuf,
}

/// Operations that are the inner server's.
macro_rules! inner {
    ($($operation:ident($input:ident) -> $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Reader {
            $(async fn $operation(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                self.inner.$operation(request).await
            })*

            async fn get_object(
                &self,
                request: S3Request<dto::GetObjectInput>,
            ) -> S3Result<S3Response<dto::GetObjectOutput>> {
                let path = self.root.join(&request.input.bucket).join(&request.input.key);
                let mut response = self.inner.get_object(request).await?;
                let range = response.output.content_range.as_deref();
                let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                let length = response.output.content_length.and_then(|length| length.try_into().ok());
                let mut file = tokio::fs::File::open(path).await.map_err(s3s::S3Error::internal_error)?;
                let from = std::io::SeekFrom::Start(first.unwrap_or(0));
                file.seek(from).await.map_err(s3s::S3Error::internal_error)?;
                let bytes = ReaderStream::with_capacity(file.take(length.unwrap_or(u64::MAX)), STEP);
                response.output.body = Some(dto::StreamingBlob::wrap(bytes));
                Ok(response)
            }
        }
    };
}

inner! {
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    copy_object(CopyObjectInput) -> CopyObjectOutput;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    head_bucket(HeadBucketInput) -> HeadBucketOutput;
    head_object(HeadObjectInput) -> HeadObjectOutput;
    list_buckets(ListBucketsInput) -> ListBucketsOutput;
    list_objects(ListObjectsInput) -> ListObjectsOutput;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    list_parts(ListPartsInput) -> ListPartsOutput;
    put_object(PutObjectInput) -> PutObjectOutput;
    upload_part(UploadPartInput) -> UploadPartOutput;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
}
