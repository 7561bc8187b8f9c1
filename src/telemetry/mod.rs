//! What operators see.
//!
//! - [`logs`]: one line a decision

pub mod logs;
