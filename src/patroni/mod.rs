//! patroni
