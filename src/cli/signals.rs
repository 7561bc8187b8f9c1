//! SIGTERM and Ctrl-C; SIGUSR1 and SIGUSR2.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::telemetry::logs::Level;

/// Resolves at the first SIGTERM or SIGINT. From then on a second one ends the program at once.
///
/// # Errors
/// Where the signals can't be listened to.
pub(super) fn shutdown() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            std::process::exit(1);
        });
    })
}

/// SIGUSR1 has the log say all there is to say, SIGUSR2 what is configured. Two signals and no re-reading of files: either
/// may be sent twice, and none can bring a wrong configuration in.
///
/// # Errors
/// Where the signals can't be listened to.
pub(super) fn log_level(level: Level) -> io::Result<()> {
    let (mut more, mut less) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = more.recv() => level.debug(),
                Some(()) = less.recv() => level.configured(),
                else => return,
            }
        }
    });
    Ok(())
}
