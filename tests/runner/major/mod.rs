//! Major upgrades: of a data directory, by real builds of both releases, and of whole databases.

mod data;
mod downtime;
mod journey;
mod refused;
