//! The runbook quotes the program's log texts exactly.

use std::path::Path;

use super::helm::{CHART, read, root};

/// The sources below `folder` without their tests, as one text.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let file = std::fs::read_to_string(&path).unwrap();
            text.push_str(file.split("\nmod tests {").next().unwrap());
        }
    }
    text
}

/// Every text in quotation marks on a line that begins with "In the log:" is a whole string literal of the program.
/// `…` stands for any text, so a quote that begins and ends with `…` is a part of a literal.
#[test]
fn runbook_quotes_only_log_texts_of_the_program() {
    // Joins literals that continue on the next line.
    let program: String = sources(&root().join("src")).split("\\\n").map(str::trim_start).collect();
    let runbook = read(&format!("{CHART}/RUNBOOK.md"));
    let quotes: Vec<_> = runbook
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- In the log: "))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect();
    assert!(quotes.len() >= 8, "{quotes:?}");
    for quote in quotes {
        let literal = format!("\"{quote}\"");
        assert!(literal.split('…').all(|part| program.contains(part)), "not in src: {literal}");
    }
}
