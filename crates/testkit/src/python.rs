//! Third-party readers and clients in `tests/python`.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use tokio::task::spawn_blocking;

/// Runs a script of `tests/python`. A missing Python fails the test, so that no test is skipped silently.
pub async fn python(script: &str, arguments: &[&str]) -> String {
    let root = test_broker::repository();
    let python = env::var_os("ICW_TEST_PYTHON").map_or_else(|| root.join(".venv/bin/python3"), PathBuf::from);
    let mut command = Command::new(&python);
    command.arg(root.join("tests/python").join(script)).args(arguments);
    let output = spawn_blocking(move || command.stdin(Stdio::null()).output()).await.unwrap();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{} cannot be run ({error}): run `make test`, which installs it, or set ICW_TEST_PYTHON",
            python.display()
        )
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: if a module is missing, run `make test`\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}
