use std::time::{Duration, SystemTime};

use tokio::time::advance;

use super::*;
use crate::ingress::rotating_lines::FRESH;

const OLD: &str = "icw_the-old-token-of-a-client";
const NEW: &str = "icw_the-new-token-of-a-client";

fn accepts(tokens: &ClientTokens, token: &str) -> bool {
    tokens.matches(&digest_of(token)).into()
}

#[test]
fn token_and_digest_of_the_settings_are_both_valid() {
    let tokens = ClientTokens::open(&OLD.into(), Some(digest_of(NEW)), None).unwrap();
    assert!(accepts(&tokens, OLD) && accepts(&tokens, NEW));
    assert!(!accepts(&tokens, "") && !accepts(&tokens, &OLD[1..]));
    let only_digest = ClientTokens::open(&"".into(), Some(digest_of(NEW)), None).unwrap();
    assert!(!accepts(&only_digest, ""), "an absent token is not the empty token");
    assert!(only_digest.overlaps(&tokens));
}

#[tokio::test(start_paused = true)]
async fn file_rotates_keeps_its_tokens_while_missing_and_withdraws_them_when_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("\u{feff}{OLD}\r\n")).unwrap();
    let tokens = ClientTokens::open(&"".into(), None, Some(&path)).unwrap();
    let hex = digest_of(NEW).to_hex();
    for (text, old, new) in [
        (Some(format!("{OLD}\nsha256:{hex}\n")), true, true),
        (Some(format!("{NEW}\n")), false, true),
        (None, false, true),
        (Some(String::new()), false, false),
        (Some(format!("{OLD}\n{NEW}\n{OLD}\n")), false, false),
        (Some(format!("{OLD}\n")), true, false),
    ] {
        match &text {
            Some(text) => write_before(&path, text),
            None => std::fs::remove_file(&path).unwrap(),
        }
        advance(FRESH).await;
        assert_eq!((accepts(&tokens, OLD), accepts(&tokens, NEW)), (old, new), "{text:?}");
    }
}

/// Writes the file as if that was a minute ago.
fn write_before(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn file_that_is_being_written_changes_nothing_yet() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_before(file.path(), OLD);
    let tokens = ClientTokens::open(&"".into(), None, Some(file.path())).unwrap();
    // More than once, because a busy machine may take longer than a second from the write to the read.
    let keeps = async |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        advance(FRESH).await;
        let keeps = accepts(&tokens, OLD);
        write_before(file.path(), OLD);
        advance(FRESH).await;
        assert!(accepts(&tokens, OLD));
        keeps
    };
    for text in ["", &OLD[..25]] {
        let mut kept = false;
        for _ in 0..10 {
            kept |= keeps(text).await;
        }
        assert!(kept, "{text:?}");
    }
    write_before(file.path(), "");
    advance(Duration::from_secs(3600)).await;
    assert!(!accepts(&tokens, OLD), "the first request after the withdrawal");
}

#[tokio::test(start_paused = true)]
async fn file_that_is_empty_at_the_start_has_no_token_until_it_gets_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\n").unwrap();
    let tokens = ClientTokens::open(&"".into(), None, Some(file.path())).unwrap();
    assert!(!accepts(&tokens, "") && !accepts(&tokens, NEW));
    write_before(file.path(), NEW);
    advance(FRESH).await;
    assert!(accepts(&tokens, NEW));
}

#[test]
fn error_shows_no_part_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    for text in ["short-secret", "two words of a long secret", "sha256:00secret"] {
        std::fs::write(&path, text).unwrap();
        let error = ClientTokens::open(&"".into(), None, Some(&path)).unwrap_err().to_string();
        assert!(error.contains("expected at most two lines") && !error.contains("secret"), "{error}");
    }
}
