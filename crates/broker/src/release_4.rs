//! RabbitMQ 4.0, Debian 13's, in a separate root file system. It needs a newer Erlang and C library than Debian 12 has.
//!
//! Nothing is mounted in this root. The node reads free space with `df`, which finds a table of one file system. A link
//! makes the root's own path lead back to it, so a node's folder has the same path inside and outside.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, repository};

/// True if `ICW_BROKER` asks for this release.
///
/// # Errors
/// [`Error::UnknownRelease`].
pub fn requested() -> Result<bool, Error> {
    match env::var_os("ICW_BROKER") {
        Some(release) if release == "4.0" => Ok(true),
        Some(other) if !other.is_empty() => Err(Error::UnknownRelease(other.to_string_lossy().into_owned())),
        _ => Ok(false),
    }
}

/// The root file system.
#[must_use]
pub fn root() -> PathBuf {
    repository().join("target/rabbitmq-4.0")
}

/// The folder for temporary files in which nodes must be.
#[must_use]
pub fn temporary() -> PathBuf {
    root().join("tmp")
}

/// True if the root is complete.
#[must_use]
pub fn is_ready() -> bool {
    root().with_extension("0.ready").exists()
}

/// Creates the root with mmdebstrap. Takes one to two minutes.
///
/// # Errors
/// [`Error::Failed`] with the end of mmdebstrap's output.
pub fn make() -> Result<(), Error> {
    let root = root();
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("delete {}", root.display()))(error));
        }
        _ => {}
    }
    if let Some(target) = root.parent() {
        fs::create_dir_all(target).map_err(Error::io(format!("create {}", target.display())))?;
    }
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--include=rabbitmq-server", "trixie"]).arg(&root);
    crate::process::output(&mut command)?;
    furnish(&root).map_err(Error::io(format!("complete {}", root.display())))
}

/// Adds the table of file systems and the link, and marks the root as complete.
fn furnish(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root.join("proc/self"))?;
    fs::write(root.join("proc/self/mountinfo"), "1 0 0:1 / / rw - ext4 /dev/root rw\n")?;
    let link = within(root, root);
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder)?;
    }
    symlink(climb(root), &link)?;
    fs::write(root.with_extension("0.ready"), "")
}

/// The place of an absolute path in the root.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The relative target of a link at `within(root, root)` that leads to the root.
fn climb(root: &Path) -> PathBuf {
    let folders = root.components().count().saturating_sub(2);
    if folders == 0 { ".".into() } else { "../".repeat(folders).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_leads_from_inside_to_the_root() {
        let outer = crate::NodeFolder::new().unwrap();
        let root = outer.path().join("root-4.0");
        fs::create_dir(&root).unwrap();
        furnish(&root).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        let inside = within(&root, &root).join("file");
        assert_eq!(fs::read_to_string(inside).unwrap(), "x");
        assert!(outer.path().join("root-4.0.ready").exists());
    }
}
