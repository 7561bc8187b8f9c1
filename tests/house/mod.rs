//! The map in `src/lib.rs` is true, each type has a name of its own, and the runbook quotes the program exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// Modules of the map by name, with the modules that each imports.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn sources() -> Vec<(String, String)> {
    sources_in("src")
}

fn sources_in(folder: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The code of the program: without comments, and without what only tests compile.
fn production() -> Vec<(String, String)> {
    let tests = Regex::new(r"(?s)#\[cfg\(test\)\]\s*mod tests \{.*").unwrap();
    // An item up to its end or its body, otherwise a variant or an arm up to its comma.
    let test_item = Regex::new(
        r"#\[cfg\(test\)\]\s*(?:(?:pub|async|const|fn|use|mod|impl|struct|enum|let)\b[^;{]*[;{]|[^;{]*?(?:[;{]|,\n))",
    )
    .unwrap();
    let comment = Regex::new(r"(?m)//.*$").unwrap();
    let kept = sources()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("tests.rs") && name != "lib.rs" && name != "main.rs");
    kept.map(|(name, text)| {
        let text = comment.replace_all(&text, "");
        let text = tests.replace(&text, "");
        (name, test_item.replace_all(&text, "").into_owned())
    })
    .collect()
}

/// The top-level module that the file `name` belongs to.
fn module(name: &str) -> &str {
    name.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Production types have no variants, fields or functions for tests.
#[test]
fn only_whole_modules_are_compiled_for_tests_alone() {
    let item = Regex::new(r"#\[cfg\(test\)\]\s*(.*)").unwrap();
    let module = Regex::new(r"^(?:pub(?:\(crate\))? )?mod \w+").unwrap();
    for (name, text) in sources() {
        for found in item.captures_iter(&text) {
            assert!(module.is_match(&found[1]), "{name}: {}", &found[1]);
        }
    }
}

/// [`imported`] sees imports by `crate::` alone.
#[test]
fn modules_are_imported_by_their_whole_path() {
    let production = production();
    let modules: BTreeSet<_> = production.iter().map(|(name, _)| module(name)).collect();
    let modules = modules.into_iter().collect::<Vec<_>>().join("|");
    for (name, text) in &production {
        let depth = name.trim_end_matches("/mod.rs").split('/').count();
        let climbs = Regex::new(&format!(r"(?:super::){{{depth}}}(?:{modules})\b")).unwrap();
        let found = climbs.find(text).map(|found| found.as_str());
        assert_eq!(found, None, "{name} imports it by way of the crate's root");
    }
}

/// The first names after `crate::` in `text`, also within `crate::{…}`.
fn imported(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let first = |part: &str| -> String {
            part.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        if !rest.starts_with('{') {
            names.insert(first(rest));
            continue;
        }
        let mut depth = 0;
        let mut begin = 1;
        for (position, character) in rest.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (depth == 1 && character == ',') || depth == 0 {
                names.insert(first(&rest[begin..position]));
                begin = position + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.remove("");
    names
}

fn drawn() -> Arrows {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let line = Regex::new(r"(?m)^//! ([a-z_]+) +→ ([a-z_ ]+)$").unwrap();
    line.captures_iter(&map)
        .map(|found| (found[1].to_owned(), found[2].split_whitespace().map(str::to_owned).collect()))
        .collect()
}

#[test]
fn map_shows_every_arrow_between_modules_and_no_other() {
    let mut found = Arrows::new();
    for (name, text) in production() {
        let module = module(&name);
        let mut others = imported(&text);
        others.remove(module);
        if !others.is_empty() {
            found.entry(module.to_owned()).or_default().append(&mut others);
        }
    }
    let drawn = drawn();
    for module in found.keys().chain(drawn.keys()) {
        let (found, drawn) = (found.get(module), drawn.get(module));
        assert_eq!(
            found, drawn,
            "imports of {module} on the left, its line in the map of src/lib.rs on the right"
        );
    }
}

#[test]
fn map_has_no_circle() {
    let mut left = drawn();
    assert!(left.len() > 10, "the map was not found in src/lib.rs");
    while !left.is_empty() {
        let ends: Vec<String> = left
            .iter()
            .filter(|(_, to)| to.iter().all(|to| !left.contains_key(to)))
            .map(|(from, _)| from.clone())
            .collect();
        assert!(!ends.is_empty(), "these modules import each other in a circle: {left:?}");
        for end in ends {
            left.remove(&end);
        }
    }
}

/// Two types of one name make a reader look twice. clap's `Args` is a convention: one for each command.
#[test]
fn no_two_types_have_one_name() {
    let definition =
        Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))? )?(?:struct|enum|union|trait) ([A-Z]\w*)").unwrap();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let others = ["crates/sandbox/src", "tests/simulation"].into_iter().flat_map(sources_in);
    for (file, text) in sources().into_iter().chain(others) {
        for found in definition.captures_iter(&text) {
            places.entry(found[1].to_owned()).or_default().push(file.clone());
        }
    }
    assert!(places.len() > 200, "{places:?}");
    places.retain(|name, files| files.len() > 1 && name != "Args");
    assert_eq!(places, BTreeMap::new());
}

/// The production image has no sandbox.
#[test]
fn sandbox_is_used_by_its_commands_alone() {
    let uses = |(_, text): &(String, String)| text.contains("instant_connect_sandbox");
    let files: Vec<_> = production().into_iter().filter(uses).map(|(name, _)| name).collect();
    let mut files: Vec<_> = files.iter().map(String::as_str).collect();
    files.sort_unstable();
    assert_eq!(files, ["cli/demo/people.rs", "cli/demo/services.rs", "cli/phones.rs", "cli/sandbox.rs"]);
}

/// Elsewhere, a name whose first address does not answer would hide its other addresses.
#[test]
fn connections_are_opened_by_dial_alone() {
    let opens = |(_, text): &(String, String)| text.contains("TcpStream::connect(");
    let files: Vec<_> = production().into_iter().filter(opens).map(|(name, _)| name).collect();
    assert_eq!(files, ["endpoint/dial.rs"]);
}

/// Every text in quotation marks on a line of the runbook that begins with "In the log:" is a whole string literal of the
/// program. `…` stands for any text within the literal.
#[test]
fn runbook_quotes_only_log_texts_of_the_program() {
    let runbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/instant-connect-worker/RUNBOOK.md");
    let runbook = fs::read_to_string(runbook).unwrap();
    // Joins literals that continue on the next line.
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let program: Vec<String> =
        production().iter().map(|(_, text)| continued.replace_all(text, "").into_owned()).collect();
    let quotes: Vec<_> = runbook
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- In the log: "))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect();
    assert!(quotes.len() >= 8, "{quotes:?}");
    for quote in quotes {
        let parts: Vec<_> = quote.split('…').map(regex::escape).collect();
        let literal = Regex::new(&format!("\"{}\"", parts.join("[^\"]*"))).unwrap();
        assert!(program.iter().any(|text| literal.is_match(text)), "not a text of the program: {quote}");
    }
}

/// With the metrics taken out, the program behaves the same: their handles take values and give none back, except
/// timers that record when they are dropped. Watchdog and health checks read `state` instead.
#[test]
fn metric_handles_return_nothing_to_decide_by() {
    let block = Regex::new(r"(?ms)^impl (\w*Metrics|\w+Timer) \{\n(.*?)^\}").unwrap();
    let function =
        Regex::new(r"pub(?:\([a-z]+\))? (?:const )?fn (\w+)\([^{]*?\)\s*(?:->\s*([^{]+?))?\s*\{").unwrap();
    let mut handles = BTreeMap::<String, usize>::new();
    let mut returned = BTreeMap::<String, BTreeSet<String>>::new();
    let metrics = production().into_iter().filter(|(name, _)| name.starts_with("telemetry/metrics/"));
    for (_, text) in metrics {
        for found in block.captures_iter(&text) {
            for function in function.captures_iter(&found[2]) {
                *handles.entry(found[1].to_owned()).or_default() += 1;
                if let Some(kind) = function.get(2) {
                    returned.entry(found[1].to_owned()).or_default().insert(kind.as_str().to_owned());
                }
            }
        }
    }
    let metrics = returned.remove("Metrics").unwrap_or_default();
    let is_timer = |kind: &String| kind.ends_with("Timer");
    assert!(returned.values().flatten().all(is_timer), "a handle returns a value: {returned:?}");
    let is_handle = |kind: &String| kind.strip_suffix("Metrics").is_some_and(|name| !name.is_empty());
    let others: Vec<_> = metrics.iter().filter(|kind| !is_handle(kind)).collect();
    // `new`, `off` and `render`.
    assert_eq!(others, ["Result<Self, Error>", "Result<String, Error>", "Self"]);
    assert!(handles.len() >= 8 && handles.values().all(|functions| *functions > 0), "{handles:?}");

    let renders = |(name, text): &(String, String)| {
        !name.starts_with("telemetry/") && (text.contains(".render()") || text.contains(".gather()"))
    };
    let files: Vec<_> = production().into_iter().filter(renders).map(|(name, _)| name).collect();
    assert_eq!(files, ["admin/mod.rs"]);
}
