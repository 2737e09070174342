//! CronJobs: Jobs on a schedule.

mod act;
mod plan;
#[cfg(test)]
mod tests;

pub(super) use act::start;
