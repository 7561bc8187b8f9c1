//! Files in the chart that are generated from other sources.

use instant_connect_worker::config::{load::DEFAULTS, schema::schema};
use serde_json::Value;

use super::helm::{CHART, LEAST, cases, objects, printed, python, read, rendered, run};

#[test]
fn generated_chart_files_are_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().to_str().unwrap();
    let settings = folder.path().join("schema.json");
    std::fs::write(&settings, schema().to_string()).unwrap();
    let output = run(python(), &["scripts/chart-files", settings.to_str().unwrap(), target], "", "");
    printed(&output, "scripts/chart-files");
    for file in ["values.schema.json", "README.md", "files/settings.json"] {
        let written = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(written == read(&format!("{CHART}/{file}")), "{file} is outdated: run `make chart-files`");
    }
}

/// Asserts that the README has a row for each value below `path`.
fn walk(path: &str, value: &Value, schema: &Value, readme: &str) {
    match value.as_object() {
        Some(keys) if !keys.is_empty() && !readme.contains(&format!("| `{path}` |")) => {
            for (key, value) in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, &schema["properties"][key], readme);
            }
        }
        _ => {
            assert!(readme.contains(&format!("| `{path}` |")), "{path} has no comment `# --`");
            assert!(schema.is_null() || schema["description"].is_string(), "{path}");
        }
    }
}

/// Every value has a comment, which becomes its row in the README.
#[test]
fn readme_describes_each_value() {
    let values = objects(&read(&format!("{CHART}/values.yaml")));
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    let readme = read(&format!("{CHART}/README.md"));
    walk("", &values[0], &schema, &readme);
}

/// Checked without Helm: the settings schema accepts the defaults, and the values schema accepts every case.
#[test]
fn schemas_are_valid_and_accept_defaults_and_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let (schema_file, defaults) = (folder.path().join("schema.json"), folder.path().join("default.toml"));
    std::fs::write(&schema_file, schema().to_string()).unwrap();
    std::fs::write(&defaults, DEFAULTS).unwrap();
    let check = |arguments: &[&str]| {
        let mut all = vec!["-m", "check_jsonschema"];
        all.extend_from_slice(arguments);
        run(python(), &all, "", "")
    };
    let schema_file = schema_file.to_str().unwrap();
    let values = format!("{CHART}/values.schema.json");
    printed(&check(&["--check-metaschema", schema_file, &values]), "metaschema");
    printed(&check(&["--schemafile", schema_file, defaults.to_str().unwrap()]), "defaults");
    let files: Vec<_> = cases().iter().map(|case| format!("{CHART}/ci/{case}")).collect();
    let mut arguments = vec!["--schemafile", &values];
    arguments.extend(files.iter().map(String::as_str));
    printed(&check(&arguments), "matrix");
    std::fs::write(&defaults, DEFAULTS.replace("prefetch = 32", "prefech = 32")).unwrap();
    assert!(!check(&["--schemafile", schema_file, defaults.to_str().unwrap()]).status.success());
}

/// `versions` compares the files; this test compares the rendered image.
#[test]
fn rendered_image_has_the_version_of_the_crate() {
    let image = rendered(&LEAST).iter().find(|object| object["kind"] == "Deployment").unwrap().clone();
    let image = image["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");
}
