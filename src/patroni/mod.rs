//! Patroni: its configuration, what it writes into Kubernetes objects, and its REST API.

mod client;
mod config;
mod objects;

pub use client::{Client, Credentials, PatroniError, REST_PORT};
pub use config::{
    APP_NAME, CONFIG_KEY, FIRST_LOOP_WAIT_SECONDS, REPLICATION_USER, REST_USER, REWIND_USER, SUPERUSER,
    TTL_SECONDS, config_patch, dynamic, plain_access, template,
};
pub use objects::{
    Answer, DynamicConfig, LEADER, Lock, MemberStatus, PendingFailover, PendingSetting, Positions, Sync,
    TimelineEnd,
};
