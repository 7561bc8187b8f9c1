//! OpenTelemetry's standard variables that correspond to settings of this program
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>). They are a layer just above the
//! defaults, so every setting of this program wins. The SDK itself reads the other variables.

use super::{
    load::{Loaded, set_text},
    settings::{ConfigError, Origin, Settings},
};
use crate::endpoint::url::is_local;

const ENDPOINT: &str = "telemetry.otlp_endpoint";
/// Used unchanged; the path for traces is appended to the general endpoint.
pub(super) const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const GENERAL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
const DISABLED: &str = "OTEL_SDK_DISABLED";

type OtelVariables = [(String, String)];

/// Returns the value of `name`; an empty variable counts as unset, as in the specification.
fn get<'a>(environment: &'a OtelVariables, name: &str) -> Option<&'a str> {
    let found = environment.iter().find(|(known, value)| known == name && !value.is_empty());
    found.map(|(_, value)| value.as_str())
}

/// Applies the collector from the environment to `settings`.
pub(super) fn apply_endpoint(
    settings: &mut Settings,
    environment: &OtelVariables,
) -> Result<(), ConfigError> {
    let wanted = get(environment, "OTEL_TRACES_EXPORTER").is_none_or(|exporter| exporter == "otlp");
    let mut names = [TRACES_ENDPOINT, GENERAL_ENDPOINT].into_iter().filter(|_| wanted);
    let given = names.find_map(|name| Some((name, get(environment, name)?)));
    let Some((name, endpoint)) = given else { return Ok(()) };
    set_text(settings, ENDPOINT, endpoint, Origin::Environment(name.to_owned()))
}

/// Switches tracing off if the environment disables the SDK, regardless of the settings.
pub(super) fn apply_disabled(
    settings: &mut Settings,
    environment: &OtelVariables,
) -> Result<(), ConfigError> {
    match get(environment, DISABLED) {
        Some(value) if value.eq_ignore_ascii_case("true") => {
            set_text(settings, ENDPOINT, "", Origin::Environment(DISABLED.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Refuses to send the headers, which contain secrets, without TLS to a host outside loopback and cluster.
pub(super) fn validate_headers(loaded: &Loaded, environment: &OtelVariables) -> Result<(), ConfigError> {
    let Some(endpoint) = &loaded.config.telemetry.otlp_endpoint else { return Ok(()) };
    let secret = HEADERS.into_iter().find(|name| get(environment, name).is_some());
    match (endpoint.scheme(), secret) {
        ("http", Some(name)) if !is_local(endpoint) => Err(loaded.settings.error(
            ENDPOINT,
            format!(
                "expected https:// because {name} is set (http:// is allowed only for loopback and cluster-local hosts then)"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Loaded, Sources, load};

    fn with(environment: &[(&str, &str)]) -> Result<Loaded, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&Sources { environment, ..Sources::default() }).map_err(|error| error.to_string())
    }

    fn url(environment: &[(&str, &str)]) -> Option<String> {
        with(environment).unwrap().traces_url().map(String::from)
    }

    #[test]
    fn otlp_endpoint_setting_overrides_environment() {
        let (general, own) =
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.example:4318"), "ICW_TELEMETRY__OTLP_ENDPOINT");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://otel.example/in");
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[general]).unwrap(), "http://otel.example:4318/v1/traces");
        assert_eq!(url(&[traces, general]).unwrap(), "https://otel.example/in", "unchanged");
        assert_eq!(url(&[traces, (own, "http://c/")]).unwrap(), "http://c/v1/traces");
        assert_eq!(url(&[(own, "http://c/v1/traces")]).unwrap(), "http://c/v1/traces");
        assert_eq!(url(&[general, ("OTEL_SDK_DISABLED", "TRUE"), (own, "http://c")]), None);
        assert_eq!(url(&[general, ("OTEL_SDK_DISABLED", "false")]), url(&[general]));
        assert_eq!(url(&[general, ("OTEL_TRACES_EXPORTER", "none")]), None);
        let shown = with(&[general]).unwrap();
        let origin = shown.settings.origin("telemetry.otlp_endpoint").unwrap().to_string();
        assert_eq!(origin, "environment OTEL_EXPORTER_OTLP_ENDPOINT");
    }

    #[test]
    fn invalid_collector_error_names_variable_without_secret() {
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret");
        for (environment, expected) in [
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")], "expected a URL such as"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://h")], "expected a URL such as"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:s3cret@h")], "without user and password"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h?key=s3cret")], "without ? and #"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.example"), headers], "expected https://"),
        ] {
            let error = with(&environment).unwrap_err();
            assert!(
                error.starts_with("environment OTEL_EXPORTER_OTLP_ENDPOINT: telemetry.otlp_endpoint"),
                "{error}"
            );
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
        assert!(with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.prod.svc"), headers]).is_ok());
    }
}
