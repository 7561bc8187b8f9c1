//! What operators see, tested on a real broker, the program as a process, and the sandbox.

mod health;
mod metrics;
mod silence;
