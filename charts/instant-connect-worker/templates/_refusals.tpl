{{- /*
Combinations that would break a promise, all at once, each with what to do. By `fail` and not by the schema alone, because
`--skip-schema-validation` exists.
*/}}
{{- define "icw.refuse" -}}
{{- $said := concat
  (include "icw.refusals.ledger" . | fromJsonArray)
  (include "icw.refusals.config" . | fromJsonArray)
  (include "icw.refusals.secrets" . | fromJsonArray)
  (include "icw.refusals.running" . | fromJsonArray)
  (include "icw.refusals.around" . | fromJsonArray) -}}
{{- if $said -}}
{{- fail (printf "\n\nThese values are refused:\n- %s\n" (join "\n- " $said)) -}}
{{- end -}}
{{- end }}

{{- /* Workers and their ledger. */}}
{{- define "icw.refusals.ledger" -}}
{{- $said := list -}}
{{- $kind := (include "icw.settings" . | fromJson).ledger.kind -}}
{{- $redis := include "icw.sources" (list . "redis") | fromJsonArray -}}
{{- if ne $kind "redis" -}}
{{- if gt (int64 .Values.replicas) 1 }}{{ $said = append $said (printf "replicas is %d and config.ledger.kind is %s: workers without a common ledger serve events twice. Set config.ledger.kind to redis and give redis.existingSecret, or set replicas to 1" (int64 .Values.replicas) $kind) }}{{ end -}}
{{- if .Values.autoscaling.enabled }}{{ $said = append $said (printf "autoscaling.enabled needs a ledger that workers share, and config.ledger.kind is %s: set it to redis and give redis.existingSecret" $kind) }}{{ end -}}
{{- if $redis }}{{ $said = append $said (printf "redis is given and config.ledger.kind is %s: set it to redis, or leave redis out" $kind) }}{{ end -}}
{{- end -}}
{{- if and (eq $kind "redis") (not $redis) }}{{ $said = append $said "config.ledger.kind is redis and there is no URL of Redis: give redis.existingSecret" }}{{ end -}}
{{- if eq $kind "file" -}}
{{- if eq (.Values.strategy.type | default "") "RollingUpdate" }}{{ $said = append $said "strategy.type RollingUpdate would start a second worker on a ledger file that is in use: leave strategy out, or set config.ledger.kind to redis" }}{{ end -}}
{{- if and .Values.strategy (not .Values.strategy.type) }}{{ $said = append $said "strategy without a type is a RollingUpdate, which would start a second worker on a ledger file that is in use: leave strategy out" }}{{ end -}}
{{- if not .Values.persistence.enabled }}{{ $said = append $said "config.ledger.kind is file and persistence.enabled is false: the ledger would be lost with the pod. Enable persistence, or set config.ledger.kind to memory if that is meant" }}{{ end -}}
{{- end -}}
{{- if not (has $kind (list "file" "memory" "redis")) }}{{ $said = append $said (printf "config.ledger.kind is %v: expected file, memory or redis" $kind) }}{{ end -}}
{{- toJson $said -}}
{{- end }}

{{- /* Settings that the chart derives, and variables that would beat them. */}}
{{- define "icw.refusals.config" -}}
{{- $said := list -}}
{{- $instead := dict
  "amqp.url" "give amqp.existingSecret" "amqp.url_file" "give amqp.existingSecret"
  "instant_connect.token" "give webex.existingSecret" "instant_connect.token_file" "give webex.existingSecret"
  "hosts.token" "give hosts.existingSecret" "hosts.token_file" "give hosts.existingSecret"
  "ledger.url" "give redis.existingSecret" "ledger.url_file" "give redis.existingSecret"
  "ledger.path" "it is on the chart's volume, see persistence" "admin.listen" "set admin.port and admin.ipv6" -}}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}{{ $_ := set $instead "tls.ca_file" "caBundle gives it" }}{{ end -}}
{{- range $section, $keys := .Values.config -}}
{{- if kindIs "map" $keys -}}
{{- range $key, $value := $keys -}}
{{- $name := printf "%s.%s" $section $key -}}
{{- if hasKey $instead $name }}{{ $said = append $said (printf "config.%s is derived: leave it out; %s" $name (get $instead $name)) }}{{ end -}}
{{- end -}}
{{- else }}{{ $said = append $said (printf "config.%s is no section: expected keys and values as in config/default.toml" $section) }}{{ end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "ICW_" (.name | toString) }}{{ $said = append $said (printf "extraEnv has %s, which would beat the file of settings: put it into config" .name) }}{{ end -}}
{{- end -}}
{{- range .Values.extraEnvFrom -}}
{{- if hasPrefix "ICW_" (.prefix | default "") }}{{ $said = append $said (printf "extraEnvFrom has the prefix %s, whose variables would beat the file of settings: put them into config" .prefix) }}{{ end -}}
{{- end -}}
{{- if and .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}{{ $said = append $said "caBundle.existingConfigMap and caBundle.existingSecret are both given: leave one out" }}{{ end -}}
{{- toJson $said -}}
{{- end }}

{{- /* Each secret from one place. */}}
{{- define "icw.refusals.secrets" -}}
{{- $root := . -}}
{{- $said := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- range $thing := list "amqp" "webex" "hosts" "redis" -}}
{{- $file := include "icw.secretFile" $thing -}}
{{- $sources := include "icw.sources" (list $root $thing) | fromJsonArray -}}
{{- if gt (len $sources) 1 }}{{ $said = append $said (printf "%s is given more than once (%s): keep one of %s.existingSecret, %s.%s and externalSecrets.%s" $thing (join ", " $sources) $thing $thing $file $thing) }}{{ end -}}
{{- if and (not $sources) (has $thing (list "amqp" "webex")) }}{{ $said = append $said (printf "%s is not given: set %s.existingSecret to the name of a Secret with the key %s (or one of %s.%s and externalSecrets.%s)" $thing $thing $file $thing $file $thing) }}{{ end -}}
{{- if and (not $root.Values.externalSecrets.enabled) (get $root.Values.externalSecrets $thing) }}{{ $said = append $said (printf "externalSecrets.%s is given and externalSecrets.enabled is false: set it to true, or leave externalSecrets.%s out" $thing $thing) }}{{ end -}}
{{- end -}}
{{- if and (ne $settings.hosts.delivery "webex") (include "icw.sources" (list . "hosts") | fromJsonArray) }}{{ $said = append $said (printf "hosts is given and config.hosts.delivery is %s: this worker sends no messages, so leave hosts out" $settings.hosts.delivery) }}{{ end -}}
{{- if and .Values.externalSecrets.enabled (not .Values.externalSecrets.secretStoreRef.name) }}{{ $said = append $said "externalSecrets.enabled needs externalSecrets.secretStoreRef with a name" }}{{ end -}}
{{- toJson $said -}}
{{- end }}

{{- /* The pod, its end, and how many there are. */}}
{{- define "icw.refusals.running" -}}
{{- $said := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- if not (include "icw.milliseconds" $settings.shutdown.grace) }}{{ $said = append $said (printf "config.shutdown.grace is %v, which the chart can't read: write it like 25s or 1m" $settings.shutdown.grace) }}
{{- else if lt (include "icw.grace" . | int64) (include "icw.leastGrace" . | int64) }}{{ $said = append $said (printf "terminationGracePeriodSeconds is %s, and config.shutdown.grace (%s) needs %s: the worker would be killed at its work. Leave it out, or shorten config.shutdown.grace" (include "icw.grace" .) $settings.shutdown.grace (include "icw.leastGrace" .)) }}{{ end -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- if lt (int64 .minReplicas) 1 }}{{ $said = append $said "autoscaling.minReplicas is below 1: a worker has to be there, as an event is to be served within 10 s" }}{{ end -}}
{{- if lt (int64 .fallbackReplicas) 1 }}{{ $said = append $said "autoscaling.fallbackReplicas is below 1: a worker has to be there, as an event is to be served within 10 s" }}{{ end -}}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) }}{{ $said = append $said (printf "autoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d)" (int64 .minReplicas) (int64 .maxReplicas)) }}{{ end -}}
{{- if not .managementSecret.existingSecret }}{{ $said = append $said "autoscaling.enabled needs autoscaling.managementSecret.existingSecret, with the URL of RabbitMQ's management API: it alone counts what is worked on" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if or (eq (.Values.image.tag | toString) "latest") (hasSuffix ":latest" .Values.image.repository) }}{{ $said = append $said "image.tag is latest, which is another program tomorrow: name a version, or leave it out" }}{{ end -}}
{{- toJson $said -}}
{{- end }}

{{- /* Monitoring, network, topology. */}}
{{- define "icw.refusals.around" -}}
{{- $said := list -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- with .Values.podMonitor -}}
{{- if .enabled -}}
{{- $interval := include "icw.milliseconds" .interval -}}
{{- $timeout := include "icw.milliseconds" .scrapeTimeout -}}
{{- if not $interval }}{{ $said = append $said (printf "podMonitor.interval is %v, which the chart can't read: write it like 15s" .interval) }}
{{- else if gt (int64 $interval) 30000 }}{{ $said = append $said (printf "podMonitor.interval is %s, and the rules need 30s at most: set it to 30s or less" .interval) }}
{{- else if and $timeout (gt (int64 $timeout) (int64 $interval)) }}{{ $said = append $said (printf "podMonitor.scrapeTimeout (%s) is above podMonitor.interval (%s): set it to no more" .scrapeTimeout .interval) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.prometheusRule.enabled (not .Values.podMonitor.enabled) (not .Values.prometheusRule.job) }}{{ $said = append $said "prometheusRule.enabled without podMonitor.enabled needs prometheusRule.job: the rules look at the workers of one job" }}{{ end -}}
{{- if .Values.topology.enabled -}}
{{- if eq $settings.topology.declare "create" }}{{ $said = append $said "topology.enabled and config.topology.declare is create: two would declare the queues. Set config.topology.declare to check (to off on RabbitMQ 4.3, where looking needs the right to configure)" }}{{ end -}}
{{- if not (or .Values.topology.rabbitmqClusterReference.name .Values.topology.rabbitmqClusterReference.connectionSecret) }}{{ $said = append $said "topology.enabled needs topology.rabbitmqClusterReference with a name or a connectionSecret" }}{{ end -}}
{{- range $delay := $settings.retry.delays -}}
{{- if not (include "icw.milliseconds" $delay) }}{{ $said = append $said (printf "config.retry.delays has %v, which the chart can't read: write it like 30s or 2m" $delay) }}{{ end -}}
{{- end -}}
{{- else if .Values.topology.user.enabled }}{{ $said = append $said "topology.user.enabled needs topology.enabled" }}{{ end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.amqp.ports) }}{{ $said = append $said "networkPolicy.amqp.ports is empty: the worker would not reach its broker. Name the broker's ports, or set networkPolicy.enabled to false" }}{{ end -}}
{{- toJson $said -}}
{{- end }}
