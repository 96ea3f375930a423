//! (see architecture)

pub mod helpers;
