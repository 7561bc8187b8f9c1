//! The processes of a node, and programs that run to their end.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Error, wait_until};

/// Time limit for the end of a process after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Time limit until a process that executes another program has its command line.
const EXEC_LIMIT: Duration = Duration::from_secs(2);

/// The id of a node's Erlang VM, which leads a process group; `None` if it does not run. The number in the file may belong to
/// another process by now, or to a zombie, so the process must have the folder in its command line.
pub(crate) fn vm(folder: &Path) -> Option<Pid> {
    let id: i32 = fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
    let pid = Pid::from_raw(id).filter(|_| id > 1)?;
    let mut line = command_line(pid)?;
    // Empty: a zombie, or for a moment a process that is executing another program. On a busy machine the moment is long.
    wait_until(EXEC_LIMIT, Duration::from_millis(20), || {
        line = command_line(pid).unwrap_or_default();
        !line.is_empty() || is_zombie(pid)
    });
    contains(&line, folder.as_os_str().as_encoded_bytes()).then_some(pid)
}

/// True if a process has ended, whether its parent knows it or not.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the program's name, which is in parentheses.
    stat.rsplit(')').next().is_none_or(|rest| !rest.trim_start().starts_with(['R', 'S', 'D', 'T', 't', 'I']))
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

/// The arguments of a process; `None` if it does not exist.
fn command_line(pid: Pid) -> Option<Vec<u8>> {
    if Path::new("/proc/self").exists() {
        return fs::read(format!("/proc/{pid}/cmdline")).ok();
    }
    let id = pid.to_string();
    let output = Command::new("ps").args(["-o", "args=", "-p", &id]).stdin(Stdio::null()).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// Sends a signal to the VM and its helpers.
pub(crate) fn signal(vm: Pid, signal: Signal) {
    // A process that does not lead a group yet gets the signal alone. Failures mean that the process has ended.
    _ = kill_process_group(vm, signal).or_else(|_| kill_process(vm, signal));
}

/// Sends SIGKILL to the VM and its helpers, and waits for their end.
pub(crate) fn kill(folder: &Path) -> Result<(), Error> {
    if let Some(vm) = vm(folder) {
        signal(vm, Signal::KILL);
        if !wait_until(KILL_LIMIT, Duration::from_millis(50), || self::vm(folder).is_none()) {
            return Err(Error::StillRunning(folder.to_owned()));
        }
    }
    // It is absent after an orderly stop.
    _ = fs::remove_file(folder.join("pid"));
    Ok(())
}

/// Runs a program to its end. Returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let line = std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ");
    let output = command.stdin(Stdio::null()).output().map_err(Error::io(format!("run `{line}`")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let output_text = stdout + &String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed { command: line, status: output.status, output: tail(&output_text, 20).to_owned() })
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> &str {
    let text = text.trim_end();
    let start = text.rmatch_indices('\n').nth(lines.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\nb", 5), "a\nb");
        assert_eq!(tail("", 5), "");
    }

    #[test]
    fn process_is_the_nodes_only_if_it_names_the_folder() {
        let outer = crate::NodeFolder::new().unwrap();
        let folder = outer.path().to_owned();
        fs::write(folder.join("pid"), std::process::id().to_string()).unwrap();
        assert_eq!(vm(&folder), None, "this process does not have the folder in its command line");
        // `read` waits in the shell itself, so no child of it remains.
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read _", "sh"]).arg(&folder).stdin(Stdio::piped());
        let mut child = waiting.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        fs::write(folder.join("pid"), format!("{}\n", child.id())).unwrap();
        assert_eq!(vm(&folder).map(Pid::as_raw_nonzero).map(|id| id.get().cast_unsigned()), Some(child.id()));
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        kill(&folder).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert_eq!(vm(&folder), None);
        drop(stdin);
    }

    #[test]
    fn zombie_does_not_run() {
        let outer = crate::NodeFolder::new().unwrap();
        let mut child = Command::new("sh").args(["-c", ":", "sh"]).arg(outer.path()).spawn().unwrap();
        fs::write(outer.path().join("pid"), child.id().to_string()).unwrap();
        assert!(wait_until(KILL_LIMIT, Duration::from_millis(5), || is_zombie(Pid::from_child(&child))));
        assert_eq!(vm(outer.path()), None);
        child.wait().unwrap();
    }
}
