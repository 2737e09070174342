//! The API server's port: TLS and plain HTTP both, with certificates of this server's own authority.

mod authority;
mod port;

pub use authority::{Authority, Certificates, TlsError, names};
pub use port::Port;
