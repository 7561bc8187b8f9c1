//! The `dead` command on a real broker.
//!
//! - [`letters`]: dead letters for the tests
//! - [`looking`]: `list`, `show`, dry runs and `drop`
//! - [`replaying`]: `replay`, killed at any moment

mod letters;
mod looking;
mod replaying;
