//! Stack sizes of this program's threads. Arrays and tables in the headers of a message may be nested about 26,000 deep
//! within their one frame. lapin parses them recursively on its own thread, and dropping such a value recurses on any
//! thread. A stack overflow kills the process, and then every other process that gets the message.

use std::{io, thread};

/// Several times the need of the deepest nesting: about 420 bytes per level in a release build, 7,000 in a debug build. The
/// system allocates only the pages that are used.
const BYTES: usize = if cfg!(debug_assertions) { 512 << 20 } else { 64 << 20 };

/// The standard library reads this variable once, when the first thread starts.
const VARIABLE: &str = "RUST_MIN_STACK";

/// Restarts this program in the same process, with larger stacks for all threads that set no size, such as lapin's. Returns
/// if `RUST_MIN_STACK` is large enough already. Also returns if the restart fails; then only such messages are a problem.
pub fn enlarge() {
    let set = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<usize>().ok());
    if set.is_none_or(|bytes| bytes < BYTES) {
        restart();
    }
}

#[cfg(unix)]
fn restart() {
    use std::os::unix::process::CommandExt as _;

    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = std::process::Command::new(program);
    if let Some(name) = name {
        command.arg0(name);
    }
    // Returns only on failure, which matters only if such a message arrives.
    _ = command.args(arguments).env(VARIABLE, BYTES.to_string()).exec();
}

#[cfg(not(unix))]
fn restart() {}

/// Runs `work` on a thread with a large stack; the first thread of a process has the system's size, usually 8 MiB.
pub(super) fn on_large_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new().name("main".to_owned()).stack_size(BYTES).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("panicked (see the log above)"))
}
