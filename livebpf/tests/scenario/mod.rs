//! Reading and playing the scenarios of tests/data/scenarios.

pub mod bare;
pub mod format;
pub mod live;
pub mod play;
pub mod refusal;
