//! StatefulSets: numbered pods with their claims.

mod act;
mod claims;
mod plan;
mod pod;
#[cfg(test)]
mod tests;

pub(super) use act::start;
