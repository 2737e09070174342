//! WAL: what its files are called, and what is in them.

mod content;
mod name;

pub use content::{Cluster, Content, ContentError, check};
pub use name::{NameError, Segment, SegmentSize, WalFile};
