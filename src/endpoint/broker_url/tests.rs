use super::*;

const RULES: UrlRules = UrlRules { allow_insecure: false, external: false };

fn read(text: &str) -> Result<Vec<Node>, String> {
    nodes(&text.into(), RULES)
}

fn one(text: &str) -> Node {
    read(text).unwrap_or_else(|problem| panic!("{text}: {problem}")).remove(0)
}

#[test]
fn url_is_parsed_into_its_parts() {
    let node = one("amqps://us%20er:p%40ss%2Fw%3Ford@mq.example.com:5679/a%2fb?heartbeat=30");
    assert_eq!((node.tls, node.host.as_str(), node.port), (true, "mq.example.com", 5679));
    assert_eq!((node.user.as_str(), node.password.expose_secret()), ("us er", "p@ss/w?ord"));
    assert_eq!((node.vhost.as_str(), node.heartbeat), ("a/b", Some(30)));
    assert!(!format!("{node:?}").contains("p@ss"));
    let node = one("amqp://localhost");
    assert_eq!(
        (node.host.as_str(), node.port, node.vhost.as_str(), node.heartbeat),
        ("localhost", 5672, "/", None)
    );
    assert_eq!((node.user.as_str(), node.password.expose_secret()), ("guest", "guest"));
    assert_eq!(one("amqps://[2001:db8::1]/v").host, "2001:db8::1");
    assert_eq!(one("AMQPS://h/v").port, 5671);
}

#[test]
fn empty_virtual_host_is_the_default_virtual_host() {
    for url in [
        "amqp://localhost",
        "amqp://localhost/",
        "amqp://u:p@localhost:5672/?heartbeat=10",
        "amqp://localhost/%2f",
    ] {
        assert_eq!(one(url).vhost, "/", "{url}");
    }
}

#[test]
fn nodes_are_separated_by_commas() {
    let hosts = |text| read(text).unwrap().into_iter().map(|node| node.host).collect::<Vec<_>>();
    assert_eq!(hosts("amqp://a/v,amqp://b/v"), ["a", "b"]);
    assert_eq!(hosts("amqp://a/v, amqps://b.example.com/v"), ["a", "b.example.com"]);
}

/// Invalid URLs, and a part of the error for each.
const INVALID_URLS: [(&str, &str); 57] = [
    ("", "it is empty"),
    ("amqp://a/v,", "node 2 of 2: expected a URL"),
    ("amqp://u:s3cret@a/v;amqp://u:s3cret@b/v", "separated by commas"),
    ("amqp://u:s3cret@a;u:s3cret@b/v", "separated by commas"),
    ("amqp://u:s3cret@a/v amqp://u:s3cret@b/v", "separated by commas"),
    ("amqp://u:s3cret@a/v\namqp://u:s3cret@b/v", "separated by commas"),
    ("amqp://u:s3cret@a/v|amqp://u:s3cret@b/v", "one virtual host"),
    ("amqp://u:s3cret@a/v/amqp://u:s3cret@b/v", "one virtual host"),
    ("amqp://u:s3cret@a/v%0a", "control character"),
    ("amqp://u:s3cret%0a@a/v", "control character in the password"),
    ("amqp://u%00:s3cret@a/v", "control character in the user"),
    ("amqp://u:s3cret@a/v\n", "line break at the end"),
    ("amqp://u:s3cret@a/v\r\n", "line break at the end"),
    ("amqp://u:s3\tcret@a/v", "no spaces"),
    ("amqp://u:s3cret@a/v#x", "%23 for #"),
    ("amqp://u:s3#cret@a/v", "%23 for #"),
    ("amqp://u:s3/cret@a/v", "%2F for /"),
    ("amqp://u:17/s3cret@a/v", "%2F for /"),
    ("amqp://u:17?s3cret@a/v", "%3F for ?"),
    ("amqp://u:s3?cret@a/v", "%3F for ?"),
    ("amqp://u:s3[cret@a/v]@x", "%40 for @"),
    ("amqp://u:%ff@a/v", "UTF-8"),
    ("amqp://u@a/v", "a password after the user"),
    ("amqp://:s3cret@a/v", "a user before the password"),
    ("amqp://u:s3cret@/v", "%40 for @"),
    ("amqp://u:s3cret@a:0/v", "1 to 65535"),
    ("amqp://u:s3cret@a:70000/v", "1 to 65535"),
    ("amqp://134744072", "in full"),
    ("amqp://0x7f.1", "in full"),
    ("amqp://127.1", "in full"),
    ("amqp://a.0x7f", "in full"),
    ("amqp://evil%2eexample%2ecom", "in full"),
    ("amqp://exämple.com", "in full"),
    ("amqp://example.com", "amqps://"),
    ("amqp://a,amqp://example.com", "node 2 of 2: expected amqps://"),
    ("u:s3cret@a/v", "begins with amqp://"),
    ("s3cret", "begins with amqp://"),
    ("amqp:u:s3cret@a/v", "expected //"),
    ("amqp:/a/v", "expected //"),
    ("pyamqp://u:s3cret@a/v", "expected amqp://"),
    ("amqp+ssl://u:s3cret@a/v", "expected amqps://"),
    ("https://u:s3cret@a/v", "management API"),
    ("gopher://u:s3cret@a/v", "begins with amqp://"),
    ("\"amqp://u:s3cret@a/v\"", "without quotes"),
    ("amqp://u:s3cret@a/v?heartbeat=abc", "whole seconds"),
    ("amqp://u:s3cret@a/v?heartbeat=0", "whole seconds"),
    ("amqp://u:s3cret@a/v?heartbeat=10&heartbeat=20", "once"),
    ("amqp://u:s3cret@a/v?hearbeat=10", "did you mean heartbeat?"),
    ("amqp://u:s3cret@a/v?cacertfile=%2Fca.pem", "cacertfile is not supported: set tls.ca_file"),
    ("amqp://u:s3cret@a/v?cacertfile=/ca.pem", "cacertfile is not supported: set tls.ca_file"),
    ("amqps://u:s3cret@a/v?certfile=c&keyfile=k", "certfile is not supported: set amqp.client_cert_file"),
    ("amqps://u:s3cret@a/v?keyfile=k", "set amqp.client_key_file"),
    ("amqps://u:s3cret@a/v?verify=verify_none", "always verified"),
    ("amqp://u:s3cret@a/v?ssl=true", "write amqps://"),
    ("amqp://u:s3cret@a/v?auth_mechanism=external", "set amqp.auth"),
    ("amqp://u:s3cret@a/v?connection_timeout=5000", "set amqp.connect_timeout"),
    ("amqp://u:s3cret@a/v?retry_delay=5", "the query key retry_delay is unknown"),
];

/// No error contains a part of the URL.
#[test]
fn invalid_url_is_refused_with_a_hint() {
    for (url, hint) in INVALID_URLS {
        let problem = read(url).map(drop).unwrap_err();
        assert!(problem.contains(hint), "{url:?}: {problem}");
        assert!(!problem.contains("cret") && !problem.contains("s3"), "{url:?}: {problem}");
    }
}

#[test]
fn external_login_needs_tls_and_no_password() {
    let external = |text: &str| nodes(&text.into(), UrlRules { external: true, ..RULES });
    assert_eq!(external("amqps://mq.example.com/v").unwrap()[0].user, "");
    assert!(external("amqp://localhost").unwrap_err().contains("amqps://"));
}
