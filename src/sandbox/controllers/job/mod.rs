//! Jobs: pods that are to end well a number of times.

mod act;
mod failure;
mod plan;
#[cfg(test)]
mod tests;

pub(super) use act::start;
pub(super) use plan::finished;
