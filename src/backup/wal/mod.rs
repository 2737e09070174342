//! WAL: what its files are called, and what is in them.

mod content;
mod name;
mod position;

pub use content::{Cluster, Content, ContentError, check};
pub use name::{NameError, Segment, SegmentSize, WalFile};
pub use position::{position, position_text};
