//! Signal handlers: SIGTERM and SIGINT (Ctrl-C) for shutdown, SIGUSR1 and SIGUSR2 for the log level.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::telemetry::logs::LogSwitch;

/// Resolves at the first SIGTERM or SIGINT after this call. A second signal exits the process immediately.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub(super) fn shutdown() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        // An error means that the receiver is gone.
        _ = stop.send(());
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    // The sender lives until it has sent.
    Ok(async move { _ = stopped.await })
}

/// SIGUSR1 switches the log to debug, SIGUSR2 back to the configured level. With two signals, either may be sent twice, and
/// no wrong configuration can be loaded from a file.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub(super) fn log_level(level: LogSwitch) -> io::Result<()> {
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
