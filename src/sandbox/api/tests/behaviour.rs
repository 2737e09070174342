//! What the recordings do not touch.
