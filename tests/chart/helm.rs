//! Helm, and the objects that it renders from the matrix in `ci/`.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, LazyLock, Mutex},
};

use serde_json::Value;

/// The newest and the oldest Helm version that the tests use.
pub(crate) const HELMS: [&str; 2] = ["4.3", "3.17"];
pub(crate) const CHART: &str = "charts/instant-connect-worker";
/// Release name and namespace of every rendering.
pub(crate) const RELEASE: &str = "icw";
pub(crate) const NAMESPACE: &str = "video";
/// The required values.
pub(crate) const LEAST: [&str; 2] = ["--set=amqp.existingSecret=a", "--set=webex.existingSecret=b"];

pub(crate) type Objects = Arc<Vec<Value>>;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The Python interpreter of `scripts/python-env`.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("ICW_TEST_PYTHON").map_or_else(|| root().join(".venv/bin/python"), PathBuf::from)
}

/// Runs a program in the repository with `input` on standard input.
pub(crate) fn run(program: impl AsRef<Path>, arguments: &[&str], input: &str, helm: &str) -> Output {
    let program = program.as_ref();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .env("ICW_HELM", helm)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}, which `make chart` installs: {error}", program.display()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A program that ended early reports the reason itself.
        _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The output of a program that must succeed.
pub(crate) fn printed(output: &Output, what: &str) -> String {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}:\n{said}\n{errors}");
    said.into_owned()
}

/// Runs `helm template` for the release with more arguments.
pub(crate) fn template(helm: &str, arguments: &[&str]) -> Output {
    let mut all = vec!["template", RELEASE, CHART, "--namespace", NAMESPACE];
    all.extend_from_slice(arguments);
    run(root().join("scripts/helm"), &all, "", helm)
}

/// Parses rendered YAML into objects.
pub(crate) fn objects(yaml: &str) -> Objects {
    let output = run(python(), &["tests/python/chart_objects.py", "json"], yaml, "");
    Arc::new(serde_json::from_str(&printed(&output, "chart_objects.py json")).unwrap())
}

/// Renders the chart with these arguments.
pub(crate) fn rendered(arguments: &[&str]) -> Objects {
    objects(&printed(&template(HELMS[0], arguments), &format!("{arguments:?}")))
}

/// The names of the values files in the matrix.
pub(crate) fn cases() -> Vec<String> {
    let folder = std::fs::read_dir(root().join(CHART).join("ci")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 9, "{names:?}");
    names
}

/// A case of the matrix as YAML, rendered once.
pub(crate) fn case_yaml(helm: &'static str, case: &str) -> String {
    type Rendered = HashMap<(&'static str, String), String>;
    static RENDERED: LazyLock<Mutex<Rendered>> = LazyLock::new(Mutex::default);
    let key = (helm, case.to_owned());
    if let Some(yaml) = RENDERED.lock().unwrap().get(&key) {
        return yaml.clone();
    }
    let file = format!("{CHART}/ci/{case}");
    let yaml = printed(&template(helm, &["--values", &file]), case);
    RENDERED.lock().unwrap().insert(key, yaml.clone());
    yaml
}

/// The objects of a case of the matrix.
pub(crate) fn case(case: &str) -> Objects {
    static READ: LazyLock<Mutex<HashMap<String, Objects>>> = LazyLock::new(Mutex::default);
    if let Some(objects) = READ.lock().unwrap().get(case) {
        return objects.clone();
    }
    let objects = objects(&case_yaml(HELMS[0], case));
    READ.lock().unwrap().insert(case.to_owned(), objects.clone());
    objects
}

/// All objects of a kind.
pub(crate) fn of_kind<'a>(objects: &'a Objects, kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The only object of a kind.
pub(crate) fn only<'a>(objects: &'a Objects, kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}: {found:#?}");
    found[0]
}

/// The component of an object or of a pod template, from its labels.
fn component(object: &Value) -> &str {
    object["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default()
}

/// The only object of a kind and component.
pub(crate) fn only_of<'a>(objects: &'a Objects, kind: &str, wanted: &str) -> &'a Value {
    let found: Vec<_> =
        of_kind(objects, kind).into_iter().filter(|object| component(object) == wanted).collect();
    assert_eq!(found.len(), 1, "{kind} {wanted}: {found:#?}");
    found[0]
}

/// The pod templates of the worker, of the ingress if there is one, and of the Helm test, with labels and spec.
pub(crate) fn pods(objects: &Objects) -> Vec<&Value> {
    let pods: Vec<_> = objects
        .iter()
        .filter_map(|object| match object["kind"].as_str().unwrap() {
            "Deployment" => Some(&object["spec"]["template"]),
            "Pod" => Some(object),
            _ => None,
        })
        .collect();
    let components: Vec<_> = pods.iter().map(|pod| component(pod)).collect();
    assert!(
        [&["worker", "test"][..], &["worker", "ingress", "test"]].contains(&&components[..]),
        "{components:?}"
    );
    pods
}

/// All containers of a pod.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|key| pod["spec"][key].as_array().into_iter().flatten())
}
