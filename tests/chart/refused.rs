//! Combinations of values that the chart must refuse.

use std::process::Output;

use super::helm::{HELMS, LEAST, template};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Arguments besides the required values, and words of the refusal.
type Refused = (&'static [&'static str], &'static [&'static str]);

const REDIS: &str = "--set=config.ledger.kind=redis,redis.existingSecret=r";

const INGRESS: &str =
    "--set=ingress.enabled=true,ingress.clients.a.existingSecret=s,ingress.tls.existingSecret=t";

const REFUSED: &[Refused] = &[
    // 1
    (&["--set=replicas=2"], &["replicas is 2", "ledger.kind is file", "redis"]),
    (&["--set=replicas=2,config.ledger.kind=memory"], &["replicas is 2", "ledger.kind is memory", "redis"]),
    (
        &["--set=autoscaling.enabled=true,autoscaling.managementSecret.existingSecret=m"],
        &["autoscaling.enabled", "redis"],
    ),
    // 2
    (&["--set=strategy.type=RollingUpdate"], &["RollingUpdate", "ledger file"]),
    (&["--set=strategy.rollingUpdate.maxSurge=1"], &["strategy without a type", "ledger file"]),
    // 3
    (&["--set=persistence.enabled=false"], &["persistence.enabled is false", "memory"]),
    // 4
    (&["--set=config.ledger.kind=redis"], &["redis", "set redis.existingSecret"]),
    (&["--set=redis.existingSecret=r"], &["redis is set", "ledger.kind is file"]),
    // 5
    (&["--set=config.amqp.url=amqps://h"], &["config.amqp.url", "amqp.existingSecret"]),
    (&["--set=config.amqp.url_file=/x"], &["config.amqp.url_file", "amqp.existingSecret"]),
    (&["--set=config.instant_connect.token=t"], &["config.instant_connect.token", "webex.existingSecret"]),
    (&["--set=config.instant_connect.token_file=/t"], &["config.instant_connect.token_file"]),
    (&["--set=config.hosts.token=t"], &["config.hosts.token", "hosts.existingSecret"]),
    (&["--set=config.hosts.token_file=/t"], &["config.hosts.token_file"]),
    (&["--set=config.webex_connect.key=k"], &["config.webex_connect.key", "webexConnect.existingSecret"]),
    (&["--set=config.webex_connect.key_file=/k"], &["config.webex_connect.key_file"]),
    (&["--set=config.webex_connect.jwt_secret=s"], &["config.webex_connect.jwt_secret", "webexConnect"]),
    (&["--set=config.webex_connect.jwt_secret_file=/s"], &["config.webex_connect.jwt_secret_file"]),
    (&["--set=config.receipts.secret=s"], &["config.receipts.secret", "receipts.existingSecret"]),
    (&["--set=config.receipts.secret_file=/s"], &["config.receipts.secret_file"]),
    (&["--set=config.receipts.key=k"], &["config.receipts.key", "receiptsKey.existingSecret"]),
    (&["--set=config.receipts.key_file=/k"], &["config.receipts.key_file"]),
    (&["--set=receiptsKey.existingSecret=s"], &["receipts are on", "ingress.enabled is false"]),
    (&["--set=receipts.existingSecret=s"], &["receipts are on", "ingress.enabled is false"]),
    (&["--set=config.receipts.allow_unsigned=true"], &["receipts are on", "ingress.enabled is false"]),
    (&[INGRESS, "--set=receipts.existingSecret=s"], &["receipts are on", "ledger.kind is file", "redis"]),
    (&["--set=config.ledger.url=redis://h"], &["config.ledger.url", "redis.existingSecret"]),
    (&["--set=config.ledger.url_file=/u"], &["config.ledger.url_file"]),
    (&["--set=config.ledger.path=/l"], &["config.ledger.path", "persistence"]),
    (&["--set=config.admin.listen=0.0.0.0:1"], &["config.admin.listen", "admin.port"]),
    (&["--set=config.tls.ca_file=/c,caBundle.existingSecret=c"], &["config.tls.ca_file", "caBundle"]),
    (&["--set=caBundle.existingConfigMap=c,caBundle.existingSecret=c"], &["caBundle", "remove one of them"]),
    // 6
    (&["--set=amqp.existingSecret="], &["amqp is not set", "amqp.existingSecret"]),
    (&["--set=webex.existingSecret="], &["webex is not set", "webex.existingSecret"]),
    (&["--set=amqp.url=amqps://h"], &["amqp is set more than once", "amqp.url"]),
    (&["--set=webex.token=t"], &["webex is set more than once", "webex.token"]),
    (&["--set=hosts.token=t,hosts.existingSecret=h"], &["hosts is set more than once"]),
    (&[REDIS, "--set=redis.url=redis://h"], &["redis is set more than once"]),
    (
        &[
            "--set=externalSecrets.enabled=true,externalSecrets.secretStoreRef.name=s,externalSecrets.amqp.key=k",
        ],
        &["amqp is set more than once", "external"],
    ),
    (&["--set=externalSecrets.hosts.key=k"], &["externalSecrets.hosts", "externalSecrets.enabled"]),
    (&["--set=externalSecrets.enabled=true"], &["secretStoreRef"]),
    // 7
    (&["--set=config.hosts.delivery=amqp,hosts.existingSecret=h"], &["hosts is set", "delivery is amqp"]),
    (&["--set=webexConnect.existingSecret=c"], &["webexConnect is set", "guests.delivery is amqp"]),
    (
        &["--set=config.guests.delivery=webex-connect"],
        &["guests.delivery is webex-connect", "set webexConnect.existingSecret"],
    ),
    // 8
    (
        &["--set-json=extraEnv=[{\"name\":\"ICW_AMQP__PREFETCH\",\"value\":\"1\"}]"],
        &["ICW_AMQP__PREFETCH", "config"],
    ),
    (
        &["--set-json=extraEnvFrom=[{\"prefix\":\"ICW_\",\"configMapRef\":{\"name\":\"c\"}}]"],
        &["extraEnvFrom", "ICW_"],
    ),
    // 9
    (&["--set=terminationGracePeriodSeconds=34"], &["terminationGracePeriodSeconds is 34", "needs 35"]),
    (&["--set=terminationGracePeriodSeconds=60,config.shutdown.grace=1m"], &["needs 70"]),
    // 10
    (&[REDIS, "--set=autoscaling.enabled=true"], &["managementSecret"]),
    (
        &[
            REDIS,
            "--set=autoscaling.enabled=true,autoscaling.managementSecret.existingSecret=m,autoscaling.minReplicas=0",
        ],
        &["minReplicas is below 1"],
    ),
    (
        &[
            REDIS,
            "--set=autoscaling.enabled=true,autoscaling.managementSecret.existingSecret=m,autoscaling.minReplicas=7",
        ],
        &["minReplicas (7)", "maxReplicas (6)"],
    ),
    (
        &[
            REDIS,
            "--set=autoscaling.enabled=true,autoscaling.managementSecret.existingSecret=m,autoscaling.fallbackReplicas=0",
        ],
        &["fallbackReplicas is below 1"],
    ),
    // 11
    (&["--set=podMonitor.enabled=true,podMonitor.interval=31s"], &["podMonitor.interval is 31s", "30s"]),
    (&["--set=podMonitor.enabled=true,podMonitor.interval=1m"], &["podMonitor.interval is 1m", "30s"]),
    (
        &["--set=podMonitor.enabled=true,podMonitor.scrapeTimeout=20s"],
        &["scrapeTimeout (20s)", "interval (15s)"],
    ),
    // 12
    (&["--set=prometheusRule.enabled=true"], &["podMonitor.enabled", "prometheusRule.job"]),
    // 13
    (
        &["--set=topology.enabled=true,topology.rabbitmqClusterReference.name=r"],
        &["declare is create", "check"],
    ),
    (&["--set=topology.enabled=true,config.topology.declare=check"], &["rabbitmqClusterReference"]),
    (&["--set=topology.user.enabled=true"], &["topology.user.enabled needs topology.enabled"]),
    // 14
    (&["--set-json=networkPolicy.amqp.ports=[]"], &["networkPolicy.amqp.ports is empty"]),
    // 15
    (&["--set=image.tag=latest"], &["latest"]),
    (&["--set=image.repository=a/b:latest"], &["latest"]),
    // 16
    (&["--set=config.ingress.drain=3s"], &["config.ingress is set", "ingress.enabled"]),
    (&["--set=ingress.clients.a.existingSecret=s"], &["ingress.clients is set", "ingress.enabled"]),
    (&["--set=ingress.kubernetesIngress.enabled=true"], &["kubernetesIngress.enabled needs ingress.enabled"]),
    (&["--set=ingress.gatewayRoute.enabled=true"], &["gatewayRoute.enabled needs ingress.enabled"]),
    (&[INGRESS, "--set=config.ingress.listen=0.0.0.0:1"], &["config.ingress.listen", "ingress.port"]),
    (&[INGRESS, "--set=config.ingress.tls_cert_file=/c"], &["config.ingress.tls_cert_file", "ingress.tls"]),
    (&[INGRESS, "--set=config.ingress.clients.a.rate=1"], &["config.ingress.clients", "set ingress.clients"]),
    (&[INGRESS, "--set=ingress.port=9464"], &["both 9464"]),
    (
        &["--set=ingress.enabled=true,ingress.tls.existingSecret=t"],
        &["at least one client", "existingSecret"],
    ),
    // 17
    (&[INGRESS, "--set=ingress.replicas=2"], &["ingress.replicas is 2", "ledger.kind is file", "redis"]),
    (
        &[INGRESS, "--set=ingress.replicas=2,config.ledger.kind=memory"],
        &["ingress.replicas is 2", "ledger.kind is memory"],
    ),
    // 18
    (
        &[INGRESS, "--set=config.ingress.client_ca_file=/c"],
        &["config.ingress.client_ca_file", "clientCaSecret"],
    ),
    (
        &[
            INGRESS,
            "--set=ingress.tls.existingSecret=,ingress.tls.clientCaSecret=c,config.ingress.allow_insecure=true",
        ],
        &["clientCaSecret is set", "existingSecret is not"],
    ),
    (&[INGRESS, "--set=ingress.tls.existingSecret="], &["ingress.tls.existingSecret", "allow_insecure"]),
    (
        &[
            INGRESS,
            "--set=ingress.kubernetesIngress.enabled=true,ingress.kubernetesIngress.hosts={a.example}",
        ],
        &["kubernetesIngress.tls is empty"],
    ),
    (&[INGRESS, "--set=ingress.kubernetesIngress.enabled=true"], &["kubernetesIngress.hosts"]),
    (&[INGRESS, "--set=ingress.gatewayRoute.enabled=true"], &["parentRefs", "hostnames"]),
    // 19
    (&[INGRESS, "--set=config.ingress.drain=13s"], &["config.ingress.drain (13s)", "shutdown.grace (25s)"]),
    (&[INGRESS, "--set=config.shutdown.grace=17s"], &["config.ingress.drain (5s)", "shutdown.grace (17s)"]),
    // 20
    (&[INGRESS, "--set=ingress.clients.b.rate=1"], &["ingress.clients.b has no token", "tokenSha256"]),
    (&[INGRESS, "--set=ingress.clients.a.token=t"], &["more than one token (secret, value)"]),
    (
        &[INGRESS, "--set=externalSecrets.ingressClients.a.key=k"],
        &["externalSecrets.ingressClients.a", "externalSecrets.enabled"],
    ),
    (
        &[
            INGRESS,
            "--set=externalSecrets.enabled=true,externalSecrets.secretStoreRef.name=s,externalSecrets.ingressClients.b.key=k",
        ],
        &["externalSecrets.ingressClients.b has no client"],
    ),
];

fn with_least<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    LEAST.into_iter().chain(arguments.iter().copied()).collect()
}

fn refused(helm: &str, more: &[&str]) {
    for (arguments, words) in REFUSED {
        let mut arguments = with_least(arguments);
        arguments.extend_from_slice(more);
        let output = template(helm, &arguments);
        assert!(!output.status.success(), "{helm} {arguments:?}: not refused");
        for word in *words {
            assert!(said(&output).contains(word), "{helm} {arguments:?}: {word}: {}", said(&output));
        }
    }
}

#[test]
fn bad_combinations_are_refused_with_advice() {
    refused(HELMS[0], &[]);
}

#[test]
fn bad_combinations_are_refused_without_the_schema() {
    refused(HELMS[0], &["--skip-schema-validation"]);
}

#[test]
fn bad_combinations_are_refused_by_the_oldest_helm() {
    refused(HELMS[1], &["--skip-schema-validation"]);
}

#[test]
fn all_errors_are_reported_together() {
    let wrong = with_least(&[
        "--set=replicas=2,image.tag=latest,redis.existingSecret=r,config.admin.listen=off,terminationGracePeriodSeconds=1",
    ]);
    let said = said(&template(HELMS[0], &wrong));
    assert_eq!(said.matches("\n- ").count(), 5, "{said}");
}

/// A duration that bypasses the schema must still lead to a clear error.
#[test]
fn unreadable_duration_is_refused_with_and_without_the_schema() {
    for (argument, word) in [
        ("--set=config.shutdown.grace=PT25S", "grace"),
        ("--set=config.shutdown.grace=25", "grace"),
        ("--set=podMonitor.enabled=true,podMonitor.interval=often", "interval"),
        (
            "--set=config.retry.delays={PT1S},config.topology.declare=check,topology.enabled=true,topology.rabbitmqClusterReference.name=r",
            "delays",
        ),
    ] {
        for skip in [None, Some("--skip-schema-validation")] {
            let mut arguments = with_least(&[argument]);
            arguments.extend(skip);
            let output = template(HELMS[0], &arguments);
            assert!(
                !output.status.success() && said(&output).contains(word),
                "{arguments:?}: {}",
                said(&output)
            );
        }
    }
}

#[test]
fn schema_refuses_unknown_keys_wrong_types_and_wrong_values() {
    for (argument, word) in [
        ("--set=config.amqp.prefech=1", "prefech"),
        ("--set=config.amqpp.prefetch=1", "amqpp"),
        ("--set=config.amqp.prefetch=0", "prefetch"),
        ("--set=config.amqp.prefetch=many", "prefetch"),
        ("--set=config.ledger.kind=disk", "kind"),
        ("--set=config.retry.max=soon", "max"),
        ("--set=config.devices.allowed={nobody}", "allowed"),
        ("--set=replica=2", "replica"),
        ("--set=image.tagg=1", "tagg"),
        ("--set=image.pullPolicy=Sometimes", "pullPolicy"),
        ("--set=image.digest=sha256:1", "digest"),
        ("--set=persistence.accessModes={ReadOnlyMany}", "accessModes"),
        ("--set=securityContext.allowPrivilegeEscalation=true", "allowPrivilegeEscalation"),
        ("--set=securityContext.capabilities.add={NET_ADMIN}", "capabilities"),
        ("--set=podSecurityContext.runAsUser=0", "runAsUser"),
        ("--set=podSecurityContext.runAsNonRoot=false", "runAsNonRoot"),
        ("--set=prometheusRule.disabled={InstantConnectLaet}", "disabled"),
        ("--set=prometheusRule.overrides.InstantConnectLaet.for=1m", "InstantConnectLaet"),
        ("--set=prometheusRule.overrides.InstantConnectLate.expr=1", "expr"),
        ("--set=admin.port=80", "port"),
        ("--set=resources.limit.memory=1Gi", "limit"),
        ("--set=ingress.clients.a.existingSecrets=s", "existingSecrets"),
        ("--set=ingress.clients.A.existingSecret=s", "A"),
        ("--set=ingress.clients.a.rate=0", "rate"),
        ("--set=ingress.clients.a.scopes={all}", "scopes"),
        ("--set=ingress.clients.a.tokenSha256=abc", "tokenSha256"),
        ("--set=ingress.service.type=ExternalName", "type"),
        ("--set=ingress.kubernetesIngress.hosts={https://a.example}", "hosts"),
        ("--set=ingress.port=80", "port"),
    ] {
        for helm in HELMS {
            let output = template(helm, &with_least(&[argument]));
            assert!(
                !output.status.success() && said(&output).contains(word),
                "{helm} {argument}: {}",
                said(&output)
            );
        }
    }
}

/// A parent chart's values may contain a `global` section.
#[test]
fn global_values_of_a_parent_chart_are_accepted() {
    let output = template(HELMS[0], &with_least(&["--set=global.anything=1"]));
    assert!(output.status.success(), "{}", said(&output));
}
