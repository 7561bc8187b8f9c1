//! The tool for dead letters, on a real broker.
//!
//! - [`letters`]: letters as the worker leaves them
//! - [`looking`]: `list`, `show`, dry runs and `drop`
//! - [`replaying`]: `replay`, killed at any moment

mod letters;
mod looking;
mod replaying;
