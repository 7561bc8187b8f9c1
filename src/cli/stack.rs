//! The stacks of this program's threads. Arrays and tables in the headers of a message may be nested: about 26,000 deep
//! in the one frame that carries them. lapin reads them by recursion on a thread of its own, and dropping such a value is
//! recursion as well, on whatever thread that happens. A stack that is too small ends the process, and every other one that
//! takes the message next.

use std::{io, thread};

/// What the deepest nesting needs, several times over: some 420 bytes a level in a release build, 7,000 in a debug build.
/// Memory is used only for what is touched.
const BYTES: usize = if cfg!(debug_assertions) { 512 << 20 } else { 64 << 20 };

/// Read by the standard library once, when the first thread is started.
const VARIABLE: &str = "RUST_MIN_STACK";

/// Begins this program again, as the same process, with larger stacks for all threads that name no size of their own, such
/// as lapin's. Whoever starts the program with `RUST_MIN_STACK` large enough saves that. Returns if nothing is to be done, or if
/// the program can't be begun again: then it works, but for such messages.
pub fn enlarge() {
    let set = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<usize>().ok());
    if set.is_none_or(|bytes| bytes < BYTES) {
        begin_again();
    }
}

#[cfg(unix)]
fn begin_again() {
    use std::os::unix::process::CommandExt as _;

    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = std::process::Command::new(program);
    if let Some(name) = name {
        command.arg0(name);
    }
    // Only fails; and what then is missing shows only if such a message comes.
    _ = command.args(arguments).env(VARIABLE, BYTES.to_string()).exec();
}

#[cfg(not(unix))]
fn begin_again() {}

/// Runs `work` on a thread with such a stack: the first thread of a process has the system's, 8 MiB as a rule.
pub(super) fn on_large_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new().name("main".to_owned()).stack_size(BYTES).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("it panicked (see above)"))
}
