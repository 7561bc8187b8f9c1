//! SIGTERM and Ctrl-C; SIGUSR1 and SIGUSR2.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::telemetry::logs::LogSwitch;

/// Resolves at the first SIGTERM or SIGINT from this call on. A second one ends the program at once, whatever it does.
///
/// # Errors
/// Where the signals can't be listened to.
pub(super) fn shutdown() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        // Nobody may be left who could be told.
        _ = tell.send(());
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    // The sender lives until it has told.
    Ok(async move { _ = told.await })
}

/// SIGUSR1 has the log say all there is to say, SIGUSR2 what is configured. Two signals and no re-reading of files: either
/// may be sent twice, and none can bring a wrong configuration in.
///
/// # Errors
/// Where the signals can't be listened to.
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
