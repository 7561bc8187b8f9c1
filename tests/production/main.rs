//! The program as the production image has it: without the sandbox. Only `--no-default-features` compiles these tests; `make test`
//! runs them.
#![cfg(not(feature = "sandbox"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regex::Regex;

const PROGRAM: &str = env!("CARGO_BIN_EXE_instant-connect-worker");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).env_clear().output().unwrap()
}

/// The Rust sources in `folder`, as one text without comments.
fn code(folder: &str) -> String {
    fn collect(folder: PathBuf, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    let mut text = String::new();
    collect(root().join(folder), &mut text);
    Regex::new("(?m)//.*$").unwrap().replace_all(&text, "").into_owned()
}

/// The long string literals of `code`, up to their first escape or placeholder.
fn literals(code: &str) -> Vec<&str> {
    let literal = Regex::new(r#""([A-Za-z][^"\\{}\n]{23,})["\\{]"#).unwrap();
    literal.captures_iter(code).map(|found| found.get(1).unwrap().as_str()).collect()
}

/// Those of `texts` that `binary` contains. One pass, because the binary of a debug build has 100 MB or more.
fn contained<'text>(binary: &[u8], texts: &[&'text str]) -> BTreeSet<&'text str> {
    let mut by_start: HashMap<[u8; 2], Vec<&str>> = HashMap::new();
    let mut starts = vec![false; 1 << 16];
    for text in texts {
        let start = [text.as_bytes()[0], text.as_bytes()[1]];
        starts[usize::from(u16::from_be_bytes(start))] = true;
        by_start.entry(start).or_default().push(text);
    }
    let mut found = BTreeSet::new();
    for (at, start) in binary.windows(2).enumerate() {
        let start = [start[0], start[1]];
        if starts[usize::from(u16::from_be_bytes(start))] {
            found.extend(by_start[&start].iter().filter(|text| binary[at..].starts_with(text.as_bytes())));
        }
    }
    found
}

#[test]
fn program_contains_no_page_and_no_text_of_the_sandbox() {
    let binary = fs::read(PROGRAM).unwrap();
    let (worker, sandbox) = (code("src"), code("crates/sandbox/src"));
    let mut texts = literals(&sandbox);
    texts.retain(|text| !worker.contains(text));
    assert!(texts.len() > 20, "{texts:?}");
    let pages = ["page.html", "notice.html"]
        .map(|page| fs::read_to_string(root().join("crates/sandbox/src").join(page)).unwrap());
    let lines = pages.iter().flat_map(|page| page.lines()).map(str::trim).filter(|line| line.len() > 24);
    texts.extend(lines);
    let settings = fs::read_to_string(root().join("config/sandbox.toml")).unwrap();
    texts.push(settings.lines().next().unwrap());
    // The same search finds the worker's texts.
    let emit = fs::read_to_string(root().join("src/cli/emit.rs")).unwrap();
    let worker = literals(&emit);
    let found = contained(&binary, &[&texts[..], &worker].concat());
    let (worker, sandbox): (Vec<_>, Vec<_>) = found.into_iter().partition(|text| worker.contains(text));
    assert_eq!(sandbox, [""; 0], "in {PROGRAM}");
    assert!(worker.len() >= 3, "{worker:?}");
}

#[test]
fn dependencies_contain_no_cipher_of_the_sandbox() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = |more: &[&str]| {
        let arguments = ["tree", "--locked", "--edges", "normal", "--prefix", "none"];
        let tree = Command::new(&cargo).args(arguments).args(more).current_dir(root()).output().unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        String::from_utf8(tree.stdout).unwrap()
    };
    let found = |tree: &str| {
        let mut names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        names.retain(|name| {
            ["aes", "aes-gcm", "aes-kw", "cbc", "pbkdf2", "instant-connect-sandbox"].contains(name)
        });
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    assert_eq!(found(&tree(&[])), 6);
    assert_eq!(found(&tree(&["--no-default-features"])), 0);
}

#[test]
fn demo_and_sandbox_are_not_in_the_help_and_their_error_names_the_reason() {
    let help = run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("\n  emit ") && !help.contains("demo") && !help.contains("sandbox"), "{help}");
    for arguments in [&["demo"][..], &["sandbox", "--phones", "--listen=127.0.0.1:0"], &["sandbox", "--help"]]
    {
        let refused = run(arguments);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("this build has no sandbox"), "{said}");
    }
}
