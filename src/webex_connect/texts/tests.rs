use std::fs;

use proptest::prelude::*;

use super::*;

const URL: &str = "https://instant.webex.com/visit/ckmNR7I";

fn options<'a>(folder: Option<&'a Path>, default_locale: &'a str) -> TextOptions<'a> {
    let zone = TimeZone::get("Europe/Madrid").unwrap();
    TextOptions { folder, default_locale, parts_max: 3, longest_url: URL.len(), zone }
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// The texts with `source` as the English one.
fn texts(source: &str) -> Result<Texts, String> {
    let folder = folder(&[("link.en.txt", source.as_bytes())]);
    Texts::load(&options(Some(folder.path()), "en"))
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn values(name: &str) -> LinkValues<'_> {
    let at = |text: &str| Some(text.parse().unwrap());
    LinkValues {
        name: Some(name),
        url: URL,
        starts: at("2026-11-21T10:00:00Z"),
        ends: at("2026-11-21T11:00:00Z").unwrap(),
        zone: None,
    }
}

fn link(texts: &Texts, locale: &str, values: &LinkValues<'_>) -> String {
    texts.link(Some(locale), values).unwrap().text.reveal().clone()
}

#[test]
fn built_in_texts_have_one_part_in_gsm7() {
    let texts = Texts::load(&options(None, "en")).unwrap();
    let expected = ["en", "es"].map(|locale| TextReport {
        locale: locale.to_owned(),
        file: format!("built-in link.{locale}.txt"),
        encoding: Encoding::Gsm7,
        parts: 1,
        parts_with_other_name: 2,
        outside_gsm7: None,
        lacks_zone: false,
    });
    assert_eq!(texts.report(), expected);
    assert_eq!(
        link(&texts, "en", &values("Ana")),
        format!("Hello Ana, please join your video session here: {URL}")
    );
    assert_eq!(
        link(&texts, "es", &LinkValues { name: None, ..values("") }),
        format!("Hola, puede unirse a su videollamada en este enlace: {URL}")
    );
}

#[test]
fn locale_is_looked_up_by_its_first_parts() {
    let folder = folder(&[
        ("link.pt-BR.txt", b"pt-BR {{ url }}"),
        ("link.zh-Hant.txt", b"zh-Hant {{ url }}"),
        ("link.ES-mx.txt", b"es-MX {{ url }}"),
        ("link.es.txt", b"es {{ url }}"),
        ("link.en.txt", b"en {{ url }}"),
        ("resend.en.txt", b"{{ a text of a later version"),
        ("..data", b""),
    ]);
    let texts = Texts::load(&options(Some(folder.path()), "en-GB")).unwrap();
    let long = format!("es{}", "-x".repeat(40));
    for (locale, expected) in [
        (Some("es"), "es"),
        (Some("ES-MX"), "es-MX"),
        (Some("es-mx-u-co-trad"), "es-MX"),
        (Some("es-ES"), "es"),
        (Some("es-u-co-trad"), "es"),
        (Some("pt-BR"), "pt-BR"),
        (Some("pt"), "en"),
        (Some("pt-PT"), "en"),
        (Some("zh-Hant-TW"), "zh-Hant"),
        (Some("zh-TW"), "en"),
        (Some("fr"), "en"),
        (Some(""), "en"),
        (Some("-"), "en"),
        (Some("é-é"), "en"),
        (Some(long.as_str()), "en"),
        (None, "en"),
    ] {
        let text = texts.link(locale, &values("Ana")).unwrap();
        assert_eq!(text.text.reveal(), &format!("{expected} {URL}"), "{locale:?}");
    }
}

#[test]
fn times_are_in_the_zone_which_is_named() {
    let source = "{% if starts %}{{ starts | time('%d/%m %H:%M') }} - {% endif %}{{ ends | time('%H:%M') }} ({{ zone }})\n{{ url }}";
    let texts = texts(source).unwrap();
    assert_eq!(link(&texts, "en", &values("Ana")), format!("21/11 11:00 - 12:00 (Europe/Madrid)\n{URL}"));
    let without = LinkValues { starts: None, ..values("Ana") };
    assert_eq!(link(&texts, "en", &without), format!("12:00 (Europe/Madrid)\n{URL}"));
    assert!(!texts.report()[0].lacks_zone);
    let elsewhere = |zone| link(&texts, "en", &LinkValues { zone: Some(zone), ..without });
    assert_eq!(elsewhere("America/New_York"), format!("06:00 (America/New York)\n{URL}"));
    assert_eq!(elsewhere("Europe/Atlantis"), format!("12:00 (Europe/Madrid)\n{URL}"));
}

#[test]
fn guests_zone_is_left_out_if_the_text_is_too_long_with_it() {
    // Three parts of 153 characters with the zone of the settings.
    let filler = "x".repeat(3 * 153 - URL.len() - "Europe/Madrid".len() - 2);
    let texts = texts(&format!("{filler} {{{{ zone }}}} {{{{ url }}}}")).unwrap();
    for (zone, shown) in [("Europe/Paris", "Europe/Paris"), ("America/Argentina/Salta", "Europe/Madrid")] {
        let text = link(&texts, "en", &LinkValues { zone: Some(zone), ..values("Ana") });
        assert_eq!(text, format!("{filler} {shown} {URL}"));
    }
}

#[test]
fn zone_is_named_for_people() {
    let folder = folder(&[("link.en.txt", b"{{ zone }} {{ url }}")]);
    for (zone, name) in [
        (TimeZone::get("America/New_York").unwrap(), "America/New York"),
        (TimeZone::UTC, "UTC"),
        (TimeZone::fixed(jiff::tz::offset(1)), "+01"),
    ] {
        let texts = Texts::load(&TextOptions { zone, ..options(Some(folder.path()), "en") }).unwrap();
        assert_eq!(link(&texts, "en", &values("Ana")), format!("{name} {URL}"));
    }
}

#[test]
fn report_tells_a_time_without_zone_and_the_character_outside_gsm7() {
    let report = |source: &str| texts(source).unwrap().report().remove(0);
    for (source, lacks_zone) in [
        ("{{ ends | time('%H:%M') }} {{ url }}", true),
        ("{{ ends|time('%H:%M %Z') }} {{ url }}", false),
        ("{{ ends | time('%H:%M') }} {{ zone }} {{ url }}", false),
        ("any time {% if starts %}soon{% endif %} {{ url }}", false),
    ] {
        assert_eq!(report(source).lacks_zone, lacks_zone, "{source}");
    }
    let accented = report(&format!("{} aqu\u{ed} {{{{ url }}}}", "x".repeat(60)));
    assert_eq!((accented.encoding, accented.parts, accented.outside_gsm7), (Encoding::Ucs2, 2, Some('í')));
    let decomposed = report("Begon\u{303}a {{ url }}");
    assert_eq!(decomposed.encoding, Encoding::Gsm7, "a letter and its mark are composed");
    assert!(format!("{:?}", texts("{{ url }}").unwrap()).contains("link.es.txt"));
}

/// Sources, and the beginning of the error of each.
const REFUSED: [(&str, &str); 26] = [
    ("", "link.en.txt: the text is empty; hint: write one"),
    (" \n", "link.en.txt: the text is empty"),
    ("Hi\n\tAna {{ url }}", "link.en.txt, line 2: control character U+0009; hint: use spaces"),
    ("Hi\rAna {{ url }}", "link.en.txt, line 1: control character U+000D"),
    ("Hi {{ '\\t' }} {{ url }}", "link.en.txt: control character U+0009"),
    ("Hi\n{{ url }", "link.en.txt, line 2: syntax error: "),
    ("{% if name %}{{ url }}", "link.en.txt, line 1: syntax error: "),
    ("{% include 'link.es.txt' %} {{ url }}", "link.en.txt, line 1: syntax error: "),
    ("{% macro m() %}{% endmacro %} {{ url }}", "link.en.txt, line 1: syntax error: "),
    (
        "a link\n{{ link }} {{ url }} {% if false %}{{ user }}{% endif %}",
        "link.en.txt, line 2: unknown variable link; hint: use one of name, url, starts, ends, zone\n\
             link.en.txt, line 2: unknown variable user",
    ),
    ("\n{{ url | upper }}", "link.en.txt, line 2: unknown filter: "),
    ("{{ url.host }} {{ url }}", "link.en.txt, line 1: undefined value"),
    ("{{ range(9) }} {{ url }}", "link.en.txt, line 1: unknown variable range"),
    ("{{ 'x' * 1000000000 }} {{ url }}", "link.en.txt, line 1: engine ran out of fuel"),
    (
        "{{ name }} {{ url }}",
        "link.en.txt: a guest may have no name; hint: use name only inside {% if name %}",
    ),
    ("{{ 'Hi ' ~ name }} {{ url }}", "link.en.txt: a guest may have no name"),
    ("{{ starts | time('%H') }} {{ url }}", "link.en.txt: a session may have no start; hint: "),
    (
        "{{ ends }} {{ url }}",
        "link.en.txt: a time without a format; hint: write {{ ends | time(\"%H:%M\") }}",
    ),
    (
        "{{ ends | time('%!') }} {{ url }}",
        "link.en.txt, line 1: invalid operation: cannot format a time as \"%!\"",
    ),
    ("{{ url | time('%H') }} {{ url }}", "link.en.txt, line 1: invalid operation: the filter time is for"),
    ("Hello", "link.en.txt: the link is missing; hint: "),
    ("Hello{% if name %} {{ url }}{% endif %}", "link.en.txt: the link is missing"),
    ("Hello {{ url }}.", "link.en.txt: the link touches other characters"),
    ("({{ url }})", "link.en.txt: the link touches other characters"),
    ("{% if name %}{{ name }}{% endif %}{{ url }}", "link.en.txt: the link touches other characters"),
    ("{{ url }} {{ url }}{{ url }}", "link.en.txt: the link touches other characters"),
];

#[test]
fn problems_of_a_text_name_line_and_remedy() {
    let long = format!("{} {{{{ url }}}}", "x".repeat(460));
    let other = format!("{} “x” {{{{ url }}}}", "x".repeat(200));
    let mut wrong = Vec::new();
    let too_long = [
        (
            long.as_str(),
            "link.en.txt: 4 parts as GSM-7, at most 3 allowed; hint: shorten the text, or raise send.sms_parts_max",
        ),
        (other.as_str(), "link.en.txt: 4 parts as UCS-2 because of '“' (U+201C), at most 3 allowed"),
    ];
    for (source, problem) in REFUSED.into_iter().chain(too_long) {
        let found = texts(source).err().unwrap_or_default();
        let is_right = found.starts_with(problem)
            && found.lines().count() == problem.lines().count()
            && found.lines().all(|line| line.contains("; hint: "));
        if !is_right {
            wrong.push((source, problem, found));
        }
    }
    assert!(wrong.is_empty(), "source, expected, found: {wrong:#?}");
}

#[test]
fn problems_of_a_folder_are_found_at_once() {
    let not_utf8 = b"Hi\n{{ url }} \xff";
    let large = vec![b'x'; 16 * 1024 + 1];
    let folder = folder(&[
        ("link.de.txt", not_utf8),
        ("link.fr.txt", &large),
        ("link.es_MX.txt", b"{{ url }}"),
        ("LINK.it.txt", b"{{ url }}"),
        ("link.txt", b"{{ url }}"),
        ("link.en.txt~", b"{{ url }}"),
        ("link.nl.txt", b"\xef\xbb\xbfHallo\r\n{{ url }}\r\n"),
    ]);
    fs::create_dir(folder.path().join("link.ca.txt")).unwrap();
    let error = Texts::load(&options(Some(folder.path()), "ja")).unwrap_err().to_string();
    let error = error.replace(&format!("{}/", folder.path().display()), "");
    let problems: Vec<_> = error.lines().map(|line| line.split("; hint: ").next().unwrap()).collect();
    assert_eq!(
        problems,
        [
            "LINK.it.txt: the file's name is not link.LOCALE.txt",
            "link.ca.txt: not a file",
            "link.de.txt, line 2: not UTF-8",
            "link.en.txt~: the file's name is not link.LOCALE.txt",
            "link.es_MX.txt: the file's name is not link.LOCALE.txt",
            "link.fr.txt: more than 16384 bytes",
            "link.txt: the file's name is not link.LOCALE.txt",
            "texts: no text for the default locale ja",
        ]
    );
}

#[test]
fn two_files_of_one_locale_are_refused() {
    let folder = folder(&[("link.PT.txt", b"{{ url }}"), ("link.pt.txt", b"{{ url }}")]);
    if fs::read_dir(folder.path()).unwrap().count() == 1 {
        return; // This file system ignores upper and lower case.
    }
    let error = Texts::load(&options(Some(folder.path()), "en")).unwrap_err().to_string();
    assert!(error.contains("link.pt.txt: same locale as ") && error.contains("link.PT.txt"), "{error}");
}

#[test]
fn folder_without_texts_or_with_too_many_is_refused() {
    let problem = |folder: &Path| Texts::load(&options(Some(folder), "en")).unwrap_err().to_string();
    let empty = folder(&[("README.md", b"")]);
    assert!(problem(empty.path()).contains("no file link.LOCALE.txt"), "{}", problem(empty.path()));
    assert!(problem(&empty.path().join("absent")).contains("hint: check the path"));
    let names: Vec<_> = (0..65).map(|number| format!("link.x-{number}.txt")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), b"{{ url }}".as_slice())).collect();
    assert!(Texts::load(&options(Some(folder(&files[1..]).path()), "en")).is_ok());
    assert!(problem(folder(&files).path()).contains("more than 64 texts"));
}

#[test]
fn longest_usual_link_counts_for_every_text() {
    let error =
        Texts::load(&TextOptions { longest_url: 500, ..options(None, "en") }).unwrap_err().to_string();
    assert!(
        error.contains("built-in link.en.txt: 4 parts") && error.contains("built-in link.es.txt: 4 parts")
    );
    let long = TextOptions { longest_url: 4001, parts_max: 100, ..options(None, "en") };
    assert!(Texts::load(&long).unwrap_err().to_string().contains("characters, at most 4000 allowed"));
}

#[test]
fn name_is_left_out_if_it_is_no_name_or_makes_the_text_too_long() {
    let folder = folder(&[(
        "link.en.txt",
        format!("{} {{% if name %}}{{{{ name }}}}{{% endif %}} {{{{ url }}}}", "x".repeat(100)).as_bytes(),
    )]);
    let texts = Texts::load(&TextOptions { parts_max: 1, ..options(Some(folder.path()), "en") }).unwrap();
    let [longest, accented] = ["z".repeat(40), "Garc\u{ed}a".to_owned()];
    for (name, is_shown) in [
        ("Ana", true),
        (longest.as_str(), false),
        (accented.as_str(), false),
        ("evil.example", false),
        ("", false),
    ] {
        let text = texts.link(None, &values(name)).unwrap();
        assert_eq!((text.encoding, text.parts), (Encoding::Gsm7, 1), "{name}");
        assert_eq!(!name.is_empty() && text.text.reveal().contains(name), is_shown, "{name}");
    }
    assert_eq!(texts.report()[0].parts, 2, "the longest name is left out");
}

#[test]
fn error_of_a_text_shows_no_value_of_the_guest() {
    let texts = texts("Hello {% if name == 'Eva' %}{{ url | upper }}{% endif %} {{ url }}").unwrap();
    assert!(texts.link(None, &values("Eva")).is_ok(), "without the name");
    let long = format!("{URL}{}", "x".repeat(500));
    for (url, problem) in [
        (long.as_str(), "4 parts as GSM-7"),
        ("", "the link is missing"),
        (" https://secret.example ", "the link is missing"),
        ("https://secret.example\u{7f}", "control character U+007F"),
    ] {
        let error = texts.link(None, &LinkValues { url, ..values("Ana") }).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(["visit", "secret", "Ana"].iter().all(|value| !shown.contains(value)), "{shown}");
    }
    let condition =
        "{% if url == 'https://instant.webex.com/visit/ckmNR7I' %}{{ url | upper }}{% endif %} {{ url }}";
    let error = self::texts(condition).unwrap().link(None, &values("Ana")).unwrap_err();
    assert!(error.to_string().ends_with("link.en.txt, line 1: unknown filter"), "{error}");
    assert!(
        !format!("{:?}", Texts::load(&options(None, "es")).unwrap().link(None, &values("Ana")).unwrap())
            .contains("Ana")
    );
}

proptest! {
    /// Any name gives a text with the whole link, in at most the parts allowed.
    #[test]
    fn text_for_any_name_can_be_sent(name in "(\\PC{0,60})|([a-zA-Zíñ.' -]{0,45})") {
        let options = TextOptions { parts_max: 2, ..options(None, "es") };
        let text = Texts::load(&options).unwrap().link(None, &values(&name)).unwrap();
        prop_assert!(text.parts <= 2);
        prop_assert!(text.text.reveal().ends_with(URL));
        prop_assert_eq!(text.text.reveal().matches("://").count(), 1);
    }

    /// A text that is no template, or a bad one, is refused or sent, and nothing else happens.
    #[test]
    fn any_source_is_loaded_or_refused(source in "([a-z{}%|'()~ \n]|name|url|ends|time|if |endif|\\{\\{|\\}\\}){0,30}") {
        if let Ok(texts) = texts(&source) {
            prop_assert!(texts.link(None, &values("Ana")).is_ok());
        }
    }
}
