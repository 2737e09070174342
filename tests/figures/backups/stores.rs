//! The tests' S3 server and their installer of Python packages, by the files that the tests have.

#[path = "../../runner/stores/packages.rs"]
mod packages;
#[path = "../../runner/stores/s3s.rs"]
mod s3s;
#[path = "../../runner/stores/server.rs"]
mod server;

pub use packages::{Packages, Wanted, install};
pub use s3s::S3sFs;
pub use server::{BUCKET, Key, REGION};

use server::{listen, threads};
