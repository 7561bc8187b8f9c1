{{- /*
Refuses combinations of values that would break a promise of the program. All refusals are reported at once, each with the
correction. They use `fail` in addition to the schema, because `--skip-schema-validation` switches the schema off.
*/}}
{{- define "icw.refuse" -}}
{{- $refusals := concat
  (include "icw.refusals.ledger" . | fromJsonArray)
  (include "icw.refusals.config" . | fromJsonArray)
  (include "icw.refusals.secrets" . | fromJsonArray)
  (include "icw.refusals.running" . | fromJsonArray)
  (include "icw.refusals.around" . | fromJsonArray)
  (include "icw.refusals.ingress" . | fromJsonArray)
  (include "icw.refusals.clients" . | fromJsonArray) -}}
{{- if $refusals -}}
{{- fail (printf "\n\nThese values are refused:\n- %s\n" (join "\n- " $refusals)) -}}
{{- end -}}
{{- end }}

{{- /* Workers and ledger. */}}
{{- define "icw.refusals.ledger" -}}
{{- $refusals := list -}}
{{- $kind := (include "icw.settings" . | fromJson).ledger.kind -}}
{{- $redis := include "icw.sources" (list . "redis") | fromJsonArray -}}
{{- if ne $kind "redis" -}}
{{- if gt (int64 .Values.replicas) 1 }}{{ $refusals = append $refusals (printf "replicas is %d and config.ledger.kind is %s: workers without a shared ledger can process an event twice. Set config.ledger.kind to redis and set redis.existingSecret, or set replicas to 1" (int64 .Values.replicas) $kind) }}{{ end -}}
{{- if .Values.autoscaling.enabled }}{{ $refusals = append $refusals (printf "autoscaling.enabled needs a ledger that all workers share, and config.ledger.kind is %s: set it to redis and set redis.existingSecret" $kind) }}{{ end -}}
{{- if $redis }}{{ $refusals = append $refusals (printf "redis is set and config.ledger.kind is %s: set config.ledger.kind to redis, or remove redis" $kind) }}{{ end -}}
{{- end -}}
{{- if and (eq $kind "redis") (not $redis) }}{{ $refusals = append $refusals "config.ledger.kind is redis and the URL of Redis is missing: set redis.existingSecret" }}{{ end -}}
{{- if eq $kind "file" -}}
{{- if eq (.Values.strategy.type | default "") "RollingUpdate" }}{{ $refusals = append $refusals "strategy.type RollingUpdate would start a second worker on a ledger file that is in use: remove strategy, or set config.ledger.kind to redis" }}{{ end -}}
{{- if and .Values.strategy (not .Values.strategy.type) }}{{ $refusals = append $refusals "strategy without a type means RollingUpdate, which would start a second worker on a ledger file that is in use: remove strategy" }}{{ end -}}
{{- if not .Values.persistence.enabled }}{{ $refusals = append $refusals "config.ledger.kind is file and persistence.enabled is false: the ledger would be lost with the pod. Set persistence.enabled to true, or set config.ledger.kind to memory if you accept this loss" }}{{ end -}}
{{- end -}}
{{- if not (has $kind (list "file" "memory" "redis")) }}{{ $refusals = append $refusals (printf "config.ledger.kind is %v: expected file, memory or redis" $kind) }}{{ end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* Settings that the chart derives, and environment variables that would override them. */}}
{{- define "icw.refusals.config" -}}
{{- $refusals := list -}}
{{- $instead := dict
  "amqp.url" "set amqp.existingSecret" "amqp.url_file" "set amqp.existingSecret"
  "instant_connect.token" "set webex.existingSecret" "instant_connect.token_file" "set webex.existingSecret"
  "hosts.token" "set hosts.existingSecret" "hosts.token_file" "set hosts.existingSecret"
  "webex_connect.key" "set webexConnect.existingSecret" "webex_connect.key_file" "set webexConnect.existingSecret"
  "webex_connect.jwt_secret" "set webexConnect.existingSecret" "webex_connect.jwt_secret_file" "set webexConnect.existingSecret"
  "receipts.secret" "set receipts.existingSecret" "receipts.secret_file" "set receipts.existingSecret"
  "receipts.key" "set receiptsKey.existingSecret" "receipts.key_file" "set receiptsKey.existingSecret"
  "ledger.url" "set redis.existingSecret" "ledger.url_file" "set redis.existingSecret"
  "ledger.path" "the ledger file is on the chart's volume, see persistence" "admin.listen" "set admin.port and admin.ipv6"
  "ingress.listen" "set ingress.port" "ingress.clients" "set ingress.clients"
  "ingress.tls_cert_file" "set ingress.tls.existingSecret" "ingress.tls_key_file" "set ingress.tls.existingSecret"
  "ingress.client_ca_file" "set ingress.tls.clientCaSecret" -}}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}{{ $_ := set $instead "tls.ca_file" "caBundle sets it" }}{{ end -}}
{{- if and .Values.config.ingress (not .Values.ingress.enabled) }}{{ $refusals = append $refusals "config.ingress is set and ingress.enabled is false: set ingress.enabled to true, or remove config.ingress" }}{{ end -}}
{{- range $section, $keys := .Values.config -}}
{{- if kindIs "map" $keys -}}
{{- range $key, $value := $keys -}}
{{- $name := printf "%s.%s" $section $key -}}
{{- if hasKey $instead $name }}{{ $refusals = append $refusals (printf "the chart derives config.%s: remove it; %s" $name (get $instead $name)) }}{{ end -}}
{{- end -}}
{{- else }}{{ $refusals = append $refusals (printf "config.%s is not a section: expected keys and values as in config/default.toml" $section) }}{{ end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "ICW_" (.name | toString) }}{{ $refusals = append $refusals (printf "extraEnv contains %s, which would override the settings file: put this setting into config" .name) }}{{ end -}}
{{- end -}}
{{- range .Values.extraEnvFrom -}}
{{- if hasPrefix "ICW_" (.prefix | default "") }}{{ $refusals = append $refusals (printf "extraEnvFrom has the prefix %s, whose variables would override the settings file: put these settings into config" .prefix) }}{{ end -}}
{{- end -}}
{{- if and .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}{{ $refusals = append $refusals "caBundle.existingConfigMap and caBundle.existingSecret are both set: remove one of them" }}{{ end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* Each secret must have exactly one source. */}}
{{- define "icw.refusals.secrets" -}}
{{- $root := . -}}
{{- $refusals := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- range $thing := list "amqp" "webex" "hosts" "webexConnect" "receipts" "receiptsKey" "redis" -}}
{{- $file := include "icw.secretFile" $thing -}}
{{- $sources := include "icw.sources" (list $root $thing) | fromJsonArray -}}
{{- if gt (len $sources) 1 }}{{ $refusals = append $refusals (printf "%s is set more than once (%s): keep only one of %s.existingSecret, %s.%s and externalSecrets.%s" $thing (join ", " $sources) $thing $thing $file $thing) }}{{ end -}}
{{- if and (not $sources) (has $thing (list "amqp" "webex")) }}{{ $refusals = append $refusals (printf "%s is not set: set %s.existingSecret to the name of a Secret with the key %s (or set %s.%s or externalSecrets.%s)" $thing $thing $file $thing $file $thing) }}{{ end -}}
{{- if and (not $root.Values.externalSecrets.enabled) (get $root.Values.externalSecrets $thing) }}{{ $refusals = append $refusals (printf "externalSecrets.%s is set and externalSecrets.enabled is false: set externalSecrets.enabled to true, or remove externalSecrets.%s" $thing $thing) }}{{ end -}}
{{- end -}}
{{- if and (ne $settings.hosts.delivery "webex") (include "icw.sources" (list . "hosts") | fromJsonArray) }}{{ $refusals = append $refusals (printf "hosts is set and config.hosts.delivery is %s: this worker sends no messages, so remove hosts" $settings.hosts.delivery) }}{{ end -}}
{{- $sendsToGuests := eq $settings.guests.delivery "webex-connect" -}}
{{- $hasKey := not (empty (include "icw.sources" (list . "webexConnect") | fromJsonArray)) -}}
{{- if and $hasKey (not $sendsToGuests) }}{{ $refusals = append $refusals (printf "webexConnect is set and config.guests.delivery is %s: this worker sends no messages to guests, so remove webexConnect" $settings.guests.delivery) }}{{ end -}}
{{- if and $sendsToGuests (not $hasKey) }}{{ $refusals = append $refusals "config.guests.delivery is webex-connect and webexConnect is not set: set webexConnect.existingSecret to the name of a Secret with the key key" }}{{ end -}}
{{- if and .Values.externalSecrets.enabled (not .Values.externalSecrets.secretStoreRef.name) }}{{ $refusals = append $refusals "externalSecrets.enabled needs externalSecrets.secretStoreRef with a name" }}{{ end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* Pods: termination, number and image. */}}
{{- define "icw.refusals.running" -}}
{{- $refusals := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- if not (include "icw.milliseconds" $settings.shutdown.grace) }}{{ $refusals = append $refusals (printf "config.shutdown.grace is %v, which is not a valid duration: write it like 25s or 1m" $settings.shutdown.grace) }}
{{- else if lt (include "icw.grace" . | int64) (include "icw.leastGrace" . | int64) }}{{ $refusals = append $refusals (printf "terminationGracePeriodSeconds is %s, and config.shutdown.grace (%s) needs %s: Kubernetes would kill the worker while it still works. Remove terminationGracePeriodSeconds, or lower config.shutdown.grace" (include "icw.grace" .) $settings.shutdown.grace (include "icw.leastGrace" .)) }}{{ end -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- if lt (int64 .minReplicas) 1 }}{{ $refusals = append $refusals "autoscaling.minReplicas is below 1: at least one worker must run, because events must be processed within 10 s" }}{{ end -}}
{{- if lt (int64 .fallbackReplicas) 1 }}{{ $refusals = append $refusals "autoscaling.fallbackReplicas is below 1: at least one worker must run, because events must be processed within 10 s" }}{{ end -}}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) }}{{ $refusals = append $refusals (printf "autoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d): lower minReplicas or raise maxReplicas" (int64 .minReplicas) (int64 .maxReplicas)) }}{{ end -}}
{{- if not .managementSecret.existingSecret }}{{ $refusals = append $refusals "autoscaling.enabled needs autoscaling.managementSecret.existingSecret, with the URL of RabbitMQ's management API: only this API counts messages in progress" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if or (eq (.Values.image.tag | toString) "latest") (hasSuffix ":latest" .Values.image.repository) }}{{ $refusals = append $refusals "image.tag is latest, which can change at any time: set a version, or remove the tag" }}{{ end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* Monitoring, network and topology. */}}
{{- define "icw.refusals.around" -}}
{{- $refusals := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- with .Values.podMonitor -}}
{{- if .enabled -}}
{{- $interval := include "icw.milliseconds" .interval -}}
{{- $timeout := include "icw.milliseconds" .scrapeTimeout -}}
{{- if not $interval }}{{ $refusals = append $refusals (printf "podMonitor.interval is %v, which is not a valid duration: write it like 15s" .interval) }}
{{- else if gt (int64 $interval) 30000 }}{{ $refusals = append $refusals (printf "podMonitor.interval is %s, and the alert rules need at most 30s: set it to 30s or less" .interval) }}
{{- else if and $timeout (gt (int64 $timeout) (int64 $interval)) }}{{ $refusals = append $refusals (printf "podMonitor.scrapeTimeout (%s) is above podMonitor.interval (%s): lower scrapeTimeout to the interval or less" .scrapeTimeout .interval) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not .Values.podMonitor.enabled) (not .Values.prometheusRule.job) }}{{ $refusals = append $refusals "prometheusRule.enabled without podMonitor.enabled needs prometheusRule.job: the rules select the workers by their Prometheus job" }}{{ end -}}
{{- if .Values.topology.enabled -}}
{{- if eq $settings.topology.declare "create" }}{{ $refusals = append $refusals "topology.enabled is true and config.topology.declare is create: both the operator and the worker would declare the queues. Set config.topology.declare to check (on RabbitMQ 4.3 to off, because a check there needs the configure permission)" }}{{ end -}}
{{- if not (or .Values.topology.rabbitmqClusterReference.name .Values.topology.rabbitmqClusterReference.connectionSecret) }}{{ $refusals = append $refusals "topology.enabled needs topology.rabbitmqClusterReference with a name or a connectionSecret" }}{{ end -}}
{{- range $delay := $settings.retry.delays -}}
{{- if not (include "icw.milliseconds" $delay) }}{{ $refusals = append $refusals (printf "config.retry.delays contains %v, which is not a valid duration: write it like 30s or 2m" $delay) }}{{ end -}}
{{- end -}}
{{- else if .Values.topology.user.enabled }}{{ $refusals = append $refusals "topology.user.enabled needs topology.enabled" }}{{ end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.amqp.ports) }}{{ $refusals = append $refusals "networkPolicy.amqp.ports is empty: the worker could not connect to the broker. List the broker's ports, or set networkPolicy.enabled to false" }}{{ end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* The HTTP ingress, and the ways to it. */}}
{{- define "icw.refusals.ingress" -}}
{{- $refusals := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- $ingress := .Values.ingress -}}
{{- if $ingress.enabled -}}
{{- if and (gt (int64 $ingress.replicas) 1) (ne $settings.ledger.kind "redis") }}{{ $refusals = append $refusals (printf "ingress.replicas is %d and config.ledger.kind is %s: ingresses without a shared ledger accept one Idempotency-Key with two bodies, and one of the sessions ends as a dead letter. Set config.ledger.kind to redis and set redis.existingSecret, or set ingress.replicas to 1" (int64 $ingress.replicas) $settings.ledger.kind) }}{{ end -}}
{{- if not (or $ingress.clients (include "icw.takesReceipts" .)) }}{{ $refusals = append $refusals "ingress.enabled needs at least one client: set ingress.clients.NAME.existingSecret to the name of a Secret with the key token (`instant-connect-worker token` makes a token)" }}{{ end -}}
{{- if eq (int64 $ingress.port) (int64 .Values.admin.port) }}{{ $refusals = append $refusals (printf "ingress.port and admin.port are both %d: set different ports" (int64 $ingress.port)) }}{{ end -}}
{{- if and $ingress.tls.clientCaSecret (not $ingress.tls.existingSecret) }}{{ $refusals = append $refusals "ingress.tls.clientCaSecret is set and ingress.tls.existingSecret is not: clients show a certificate only with TLS. Set ingress.tls.existingSecret, or remove ingress.tls.clientCaSecret" }}{{ end -}}
{{- if not $settings.ingress.allow_insecure -}}
{{- if not $ingress.tls.existingSecret }}{{ $refusals = append $refusals "ingress.tls.existingSecret is not set: tokens and people's numbers would be sent without TLS. Set it to a Secret of type kubernetes.io/tls, or set config.ingress.allow_insecure to true if a proxy in front ends TLS and nobody else can reach the pods" }}{{ end -}}
{{- if and $ingress.kubernetesIngress.enabled (not $ingress.kubernetesIngress.tls) }}{{ $refusals = append $refusals "ingress.kubernetesIngress.tls is empty: clients would send tokens and people's numbers without TLS. Set it to [{hosts: […], secretName: …}], or without secretName to use the controller's certificate" }}{{ end -}}
{{- end -}}
{{- if $ingress.kubernetesIngress.enabled -}}
{{- if not $ingress.kubernetesIngress.hosts }}{{ $refusals = append $refusals "ingress.kubernetesIngress.enabled needs ingress.kubernetesIngress.hosts: without a host the Ingress takes the requests of every host" }}{{ end -}}
{{- end -}}
{{- if $ingress.gatewayRoute.enabled -}}
{{- if not $ingress.gatewayRoute.parentRefs }}{{ $refusals = append $refusals "ingress.gatewayRoute.enabled needs ingress.gatewayRoute.parentRefs: list the Gateways, as [{name: …, namespace: …}]" }}{{ end -}}
{{- if not $ingress.gatewayRoute.hostnames }}{{ $refusals = append $refusals "ingress.gatewayRoute.enabled needs ingress.gatewayRoute.hostnames: without a host name the route takes the requests of every host" }}{{ end -}}
{{- end -}}
{{- if and (include "icw.takesReceipts" .) (ne $settings.ledger.kind "redis") }}{{ $refusals = append $refusals (printf "receipts are on and config.ledger.kind is %s: the workers would not find the receipts of the ingress, and would send messages twice. Set config.ledger.kind to redis and set redis.existingSecret, or remove receipts, receiptsKey and config.receipts" $settings.ledger.kind) }}{{ end -}}
{{- $drain := include "icw.milliseconds" $settings.ingress.drain -}}
{{- $grace := include "icw.milliseconds" $settings.shutdown.grace -}}
{{- $after := mul 1000 (include "icw.requestSeconds" . | int64) -}}
{{- if not $drain }}{{ $refusals = append $refusals (printf "config.ingress.drain is %v, which is not a valid duration: write it like 5s or 1m" $settings.ingress.drain) }}
{{- else if and $grace (gt (add (int64 $drain) $after) (int64 $grace)) }}{{ $refusals = append $refusals (printf "config.ingress.drain (%s) and the %s s for the last requests exceed config.shutdown.grace (%s): a rollout would cut requests. Raise config.shutdown.grace, or lower config.ingress.drain" $settings.ingress.drain (include "icw.requestSeconds" .) $settings.shutdown.grace) }}{{ end -}}
{{- else -}}
{{- range $key := list "clients" }}{{ if get $ingress $key }}{{ $refusals = append $refusals (printf "ingress.%s is set and ingress.enabled is false: set ingress.enabled to true, or remove ingress.%s" $key $key) }}{{ end }}{{ end -}}
{{- if include "icw.takesReceipts" . }}{{ $refusals = append $refusals "receipts are on and ingress.enabled is false: receipts come through the ingress, so set ingress.enabled to true, or remove receipts, receiptsKey and config.receipts" }}{{ end -}}
{{- range $key := list "kubernetesIngress" "gatewayRoute" }}{{ if (get $ingress $key).enabled }}{{ $refusals = append $refusals (printf "ingress.%s.enabled needs ingress.enabled" $key) }}{{ end }}{{ end -}}
{{- end -}}
{{- toJson $refusals -}}
{{- end }}

{{- /* Each client of the ingress must have one source of its token at most, and a token or a signing secret. */}}
{{- define "icw.refusals.clients" -}}
{{- $root := . -}}
{{- $refusals := list -}}
{{- range $name, $client := .Values.ingress.clients -}}
{{- if not (kindIs "map" $client) }}{{ $refusals = append $refusals (printf "ingress.clients.%s is empty: set ingress.clients.%s.existingSecret" $name $name) }}
{{- else -}}
{{- $sources := include "icw.clientSources" (list $root $name) | fromJsonArray -}}
{{- if or (gt (len $name) 40) (not (regexMatch "^_?([a-z0-9-]+(_[a-z0-9-]+)*)?_?$" $name)) }}{{ $refusals = append $refusals (printf "ingress.clients contains the name %s: expected 1 to 40 lower-case letters, digits, - and _ (but no two _ in a row)" $name) }}{{ end -}}
{{- if not (or $sources $client.signingSecret) }}{{ $refusals = append $refusals (printf "ingress.clients.%s has no token: set ingress.clients.%s.existingSecret to the name of a Secret with the key token (or set tokenSha256, token, signingSecret or externalSecrets.ingressClients.%s)" $name $name $name) }}{{ end -}}
{{- if gt (len $sources) 1 }}{{ $refusals = append $refusals (printf "ingress.clients.%s has more than one token (%s): keep only one of existingSecret, tokenSha256, token and externalSecrets.ingressClients.%s" $name (join ", " $sources) $name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $name, $entry := .Values.externalSecrets.ingressClients -}}
{{- if not $root.Values.externalSecrets.enabled }}{{ $refusals = append $refusals (printf "externalSecrets.ingressClients.%s is set and externalSecrets.enabled is false: set externalSecrets.enabled to true, or remove externalSecrets.ingressClients.%s" $name $name) }}
{{- else if not (hasKey $root.Values.ingress.clients $name) }}{{ $refusals = append $refusals (printf "externalSecrets.ingressClients.%s has no client: add ingress.clients.%s, which may be {}" $name $name) }}{{ end -}}
{{- end -}}
{{- toJson $refusals -}}
{{- end }}
