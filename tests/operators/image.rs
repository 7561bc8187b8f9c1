//! The image's last stage, built from a production build: small, without a shell, not root, reproducible.

use std::{path::Path, process::Command};

use testkit::program;

/// Needs root on Debian; see the Makefile.
#[test]
fn image_contains_only_the_program_and_is_reproducible() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image-test");
    let tested = Command::new(script).arg(program::production()).output().unwrap();
    let said = String::from_utf8_lossy(&tested.stdout);
    assert!(tested.status.success(), "{said}{}", String::from_utf8_lossy(&tested.stderr));
    assert!(said.contains("passed: localhost/instant-connect-worker:test"), "{said}");
}
