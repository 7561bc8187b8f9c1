//! One version in all files, and the script that changes it.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::helm::{CHART, printed, read, root};

const FILES: [&str; 8] = [
    "Cargo.toml",
    "Cargo.lock",
    "fuzz/Cargo.lock",
    "charts/instant-connect-worker/Chart.yaml",
    "charts/instant-connect-worker/README.md",
    "Dockerfile",
    "CHANGELOG.md",
    "scripts/release",
];

fn release(root: &Path, arguments: &[&str]) -> Output {
    let script = root.join("scripts/release");
    Command::new("python3")
        .arg(script)
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", "1763683200")
        .output()
        .unwrap()
}

/// A copy of the files with the version in a temporary folder.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in FILES {
        let target = folder.path().join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(root().join(file), target).unwrap();
    }
    folder
}

#[test]
fn version_is_the_same_in_all_files() {
    let said = printed(&release(&root(), &["check"]), "scripts/release check");
    assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn release_writes_the_version_to_all_files() {
    let folder = copy();
    let refused = release(folder.path(), &["check", "v9.8.7"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the tag is v9.8.7"), "{refused:?}");
    for _ in 0..2 {
        printed(&release(folder.path(), &["write", "9.8.7"]), "write");
        assert_eq!(printed(&release(folder.path(), &["check", "v9.8.7"]), "check").trim(), "9.8.7");
    }
    let changelog = std::fs::read_to_string(folder.path().join("CHANGELOG.md")).unwrap();
    let released = "## [Unreleased]\n\n## [9.8.7] - 2025-11-21\n\n";
    assert_eq!(changelog, read("CHANGELOG.md").replacen("## [Unreleased]\n\n", released, 1));
    // Nothing is left for the next release.
    let empty = release(folder.path(), &["write", "9.8.8"]);
    assert!(String::from_utf8_lossy(&empty.stderr).contains("[Unreleased] is empty"), "{empty:?}");
}

#[test]
fn different_version_in_one_file_is_refused_with_its_name() {
    let chart = format!("{CHART}/Chart.yaml");
    for (file, right, wrong) in [
        ("Cargo.lock", "\nversion = \"9.8.7\"", "\nversion = \"9.8.6\""),
        (&chart, "\nversion: 9.8.7", "\nversion: 9.8.6"),
        (&chart, "\nappVersion: 9.8.7", "\nappVersion: 9.8.6"),
        (&chart, "worker:9.8.7", "worker:9.8.6"),
        ("Dockerfile", "ARG VERSION=9.8.7", "ARG VERSION=9.8.6"),
        ("CHANGELOG.md", "## [9.8.7]", "## [9.8.6]"),
    ] {
        let folder = copy();
        printed(&release(folder.path(), &["write", "9.8.7"]), "write");
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(right), "{file}: {right}");
        std::fs::write(&path, text.replacen(right, wrong, 1)).unwrap();
        let refused = release(folder.path(), &["check"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains(file) && said.contains("9.8.6"), "{said}");
    }
}

#[test]
fn invalid_version_changes_nothing() {
    let folder = copy();
    for version in ["v1.2.3", "1.2", "1.2.3 ", "01.2.3", ""] {
        assert_eq!(release(folder.path(), &["write", version]).status.code(), Some(2), "{version}");
    }
    for file in FILES {
        assert!(std::fs::read_to_string(folder.path().join(file)).unwrap() == read(file), "{file}");
    }
}
