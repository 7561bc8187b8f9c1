//! The files of texts: the built-in ones, and those of a folder.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::Read,
    path::Path,
};

use oxilangtag::LanguageTag;

use super::{
    fault::{OutputFault, TextFault, TextProblem},
    name::nfc,
};
use crate::webex_connect::locales::LOCALE_BYTES_MAX;

/// Maximum number of texts in a folder.
pub(super) const FILES_MAX: usize = 64;
/// Maximum size of a file.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024;

/// The built-in texts, by locale.
const BUILT_IN: [(&str, &str); 2] = [
    ("en", include_str!("../../../config/texts/link.en.txt")),
    ("es", include_str!("../../../config/texts/link.es.txt")),
];

/// The text of one locale.
#[derive(Debug)]
pub(super) struct TextFile {
    /// Path of the file, for people.
    pub(super) file: String,
    /// The locale as in the file's name.
    pub(super) locale: String,
    /// The template. Empty if the file can't be used, which is a problem of its own.
    pub(super) source: String,
}

/// The texts by locale in lower case: those of `folder`, and the built-in ones of other locales. Problems are added to `problems`.
pub(super) fn files(folder: Option<&Path>, problems: &mut Vec<TextProblem>) -> BTreeMap<String, TextFile> {
    let mut files = folder.map(|folder| of_folder(folder, problems)).unwrap_or_default();
    for (locale, source) in BUILT_IN {
        files.entry(locale.to_owned()).or_insert_with(|| TextFile {
            file: format!("built-in link.{locale}.txt"),
            locale: locale.to_owned(),
            source: source.to_owned(),
        });
    }
    files
}

fn of_folder(folder: &Path, problems: &mut Vec<TextProblem>) -> BTreeMap<String, TextFile> {
    let mut files = BTreeMap::<String, TextFile>::new();
    let mut problem = |path: &Path, line, fault| {
        problems.push(TextProblem { file: path.display().to_string(), line, fault });
    };
    let names = match names(folder) {
        Ok(names) => names,
        Err(fault) => {
            problem(folder, None, fault);
            return files;
        }
    };
    for name in names {
        let path = folder.join(&name);
        let Some(locale) = locale(&name) else {
            problem(&path, None, TextFault::NoLocale);
            continue;
        };
        let key = locale.to_ascii_lowercase();
        if let Some(other) = files.get(&key) {
            problem(&path, None, TextFault::SameLocale(other.file.clone()));
            continue;
        }
        let source = match read(&path) {
            Ok(source) => source,
            Err((line, fault)) => {
                problem(&path, line, fault);
                String::new()
            }
        };
        files.insert(key, TextFile { file: path.display().to_string(), locale: locale.to_owned(), source });
    }
    files
}

/// The names of the files of a folder that begin with `link`, ascending. Others may be texts of a later version.
fn names(folder: &Path) -> Result<Vec<OsString>, TextFault> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let start = name.as_encoded_bytes().get(..4);
        if start.is_some_and(|start| start.eq_ignore_ascii_case(b"link")) {
            names.push(name);
        }
        if names.len() > FILES_MAX {
            return Err(TextFault::TooManyFiles);
        }
    }
    if names.is_empty() {
        return Err(TextFault::NoTexts);
    }
    names.sort_unstable();
    Ok(names)
}

/// The locale in the name of a file: `link.LOCALE.txt`.
fn locale(name: &OsStr) -> Option<&str> {
    let locale = name.to_str()?.strip_prefix("link.")?.strip_suffix(".txt")?;
    (locale.len() <= LOCALE_BYTES_MAX && LanguageTag::parse(locale).is_ok()).then_some(locale)
}

/// Reads a text, with line feeds at its line ends and in form NFC. An error has the line, if it is of one.
fn read(path: &Path) -> Result<String, (Option<usize>, TextFault)> {
    let bytes = bytes(path).map_err(|fault| (None, fault))?;
    let line_at = |at: usize| 1 + bytes.iter().take(at).filter(|b| **b == b'\n').count();
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| (Some(line_at(error.valid_up_to())), TextFault::NotUtf8))?;
    // Windows editors begin a file with a byte order mark, and end a line with two characters.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    for (number, line) in (1..).zip(text.split('\n')) {
        if let Some(control) = line.chars().find(|c| c.is_control()) {
            return Err((Some(number), OutputFault::Control(control).into()));
        }
    }
    if text.trim().is_empty() {
        return Err((None, OutputFault::Empty.into()));
    }
    Ok(nfc(&text))
}

fn bytes(path: &Path) -> Result<Vec<u8>, TextFault> {
    // A pipe would block, and a folder is no text.
    if !fs::metadata(path)?.is_file() {
        return Err(TextFault::NoFile);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(TextFault::TooLarge) } else { Ok(bytes) }
}
