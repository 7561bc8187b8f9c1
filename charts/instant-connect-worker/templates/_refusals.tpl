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
  (include "icw.refusals.around" . | fromJsonArray) -}}
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
  "ledger.url" "set redis.existingSecret" "ledger.url_file" "set redis.existingSecret"
  "ledger.path" "the ledger file is on the chart's volume, see persistence" "admin.listen" "set admin.port and admin.ipv6" -}}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}{{ $_ := set $instead "tls.ca_file" "caBundle sets it" }}{{ end -}}
{{- if .Values.config.ingress }}{{ $refusals = append $refusals "config.ingress: this chart does not run the HTTP ingress yet: remove it" }}{{ end -}}
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
{{- range $thing := list "amqp" "webex" "hosts" "redis" -}}
{{- $file := include "icw.secretFile" $thing -}}
{{- $sources := include "icw.sources" (list $root $thing) | fromJsonArray -}}
{{- if gt (len $sources) 1 }}{{ $refusals = append $refusals (printf "%s is set more than once (%s): keep only one of %s.existingSecret, %s.%s and externalSecrets.%s" $thing (join ", " $sources) $thing $thing $file $thing) }}{{ end -}}
{{- if and (not $sources) (has $thing (list "amqp" "webex")) }}{{ $refusals = append $refusals (printf "%s is not set: set %s.existingSecret to the name of a Secret with the key %s (or set %s.%s or externalSecrets.%s)" $thing $thing $file $thing $file $thing) }}{{ end -}}
{{- if and (not $root.Values.externalSecrets.enabled) (get $root.Values.externalSecrets $thing) }}{{ $refusals = append $refusals (printf "externalSecrets.%s is set and externalSecrets.enabled is false: set externalSecrets.enabled to true, or remove externalSecrets.%s" $thing $thing) }}{{ end -}}
{{- end -}}
{{- if and (ne $settings.hosts.delivery "webex") (include "icw.sources" (list . "hosts") | fromJsonArray) }}{{ $refusals = append $refusals (printf "hosts is set and config.hosts.delivery is %s: this worker sends no messages, so remove hosts" $settings.hosts.delivery) }}{{ end -}}
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
