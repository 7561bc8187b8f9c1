{{- /*
Derives objects and settings from the program's settings, so that users set each value only once.
*/}}

{{- /* The program's effective settings, as JSON: its defaults (files/settings.json, generated from the program), then `config`. */}}
{{- define "icw.settings" -}}
{{- $settings := .Files.Get "files/settings.json" | fromJson -}}
{{- range $section, $keys := .Values.config }}
  {{- if kindIs "map" $keys }}
    {{- $known := get $settings $section | default dict }}
    {{- range $key, $value := $keys }}
      {{- if not (kindIs "invalid" $value) }}{{ $_ := set $known $key $value }}{{ end }}
    {{- end }}
    {{- $_ := set $settings $section $known }}
  {{- end }}
{{- end }}
{{- toJson $settings -}}
{{- end }}

{{- /* A duration such as 1m30s in milliseconds; empty if the duration is invalid. */}}
{{- define "icw.milliseconds" -}}
{{- if regexMatch "^([0-9]+(ms|s|m|h) ?)+$" (. | toString) -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" (. | toString) -1 -}}
{{- $number := regexReplaceAll "^0+([0-9])" (regexFind "^[0-9]+" .) "${1}" | int64 -}}
{{- $sum = add $sum (mul $number (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
{{- end }}

{{- /*
The termination grace period that the program needs, in whole seconds: `shutdown.grace` for work in progress, plus 10 s. The
publisher needs 1 s of these, the ledger 3 s and the export of spans 1.5 s; the rest is a reserve.
*/}}
{{- define "icw.leastGrace" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- $milliseconds := include "icw.milliseconds" $settings.shutdown.grace | default "0" | int64 -}}
{{- add 10 (div (add $milliseconds 999) 1000) -}}
{{- end }}

{{- define "icw.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- include "icw.leastGrace" . -}}
{{- else -}}
{{- .Values.terminationGracePeriodSeconds | int64 -}}
{{- end -}}
{{- end }}

{{- define "icw.leastReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas | int64 }}{{ else }}{{ .Values.replicas | int64 }}{{ end -}}
{{- end }}

{{- /* Two workers must not share one ledger file, so without Redis the old worker ends before the new one starts. */}}
{{- define "icw.strategy" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- if .Values.strategy -}}
{{- $given := deepCopy .Values.strategy -}}
{{- if eq ($given.type | default "") "Recreate" }}{{ $_ := set $given "rollingUpdate" nil }}{{ end -}}
{{- toYaml $given -}}
{{- else if eq $settings.ledger.kind "redis" -}}
type: RollingUpdate
rollingUpdate:
  maxUnavailable: 0
  maxSurge: 1
{{- else -}}
type: Recreate
# An explicit null: otherwise a release that used RollingUpdate keeps this field, and Kubernetes refuses the change.
rollingUpdate: null
{{- end -}}
{{- end }}

{{- /* The sources of a secret: a list of `secret`, `value`, `external`, as JSON. (list $ "amqp") */}}
{{- define "icw.sources" -}}
{{- $root := index . 0 -}}
{{- $thing := index . 1 -}}
{{- $values := get $root.Values $thing | default dict -}}
{{- $sources := list -}}
{{- if $values.existingSecret }}{{ $sources = append $sources "secret" }}{{ end -}}
{{- if or $values.url $values.token $values.key $values.secret }}{{ $sources = append $sources "value" }}{{ end -}}
{{- if and $root.Values.externalSecrets.enabled (get $root.Values.externalSecrets $thing) }}{{ $sources = append $sources "external" }}{{ end -}}
{{- toJson $sources -}}
{{- end }}

{{- /* The key of a secret in the chart's own Secrets. The mounted file has the same name. */}}
{{- define "icw.secretFile" -}}
{{- if has . (list "amqp" "redis") }}url{{ else if has . (list "webexConnect" "receiptsKey") }}key{{ else if eq . "receipts" }}secret{{ else }}token{{ end -}}
{{- end }}

{{- /* The secrets that a worker mounts, as a JSON list of {thing, secret, key, file}. */}}
{{- define "icw.secrets" -}}
{{- $root := . -}}
{{- $secrets := list -}}
{{- range $thing := list "amqp" "webex" "hosts" "webexConnect" "receipts" "receiptsKey" "redis" -}}
{{- $sources := include "icw.sources" (list $root $thing) | fromJsonArray -}}
{{- $file := include "icw.secretFile" $thing -}}
{{- if $sources -}}
{{- $values := get $root.Values $thing -}}
{{- $secret := dict "thing" (kebabcase $thing) "secret" (printf "%s-%s" (include "icw.fullname" $root) (kebabcase $thing)) "key" $file "file" $file -}}
{{- if has "secret" $sources -}}
{{- $_ := set $secret "secret" $values.existingSecret -}}
{{- $_ := set $secret "key" $values.existingSecretKey -}}
{{- end -}}
{{- $secrets = append $secrets $secret -}}
{{- end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end }}

{{- /* True if receipts are on: exchange, queue and waits exist in workers and ingresses alike. */}}
{{- define "icw.takesReceipts" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- if or (include "icw.sources" (list . "receipts") | fromJsonArray) (include "icw.sources" (list . "receiptsKey") | fromJsonArray) $settings.receipts.allow_unsigned }}true{{ end -}}
{{- end }}

{{- define "icw.folder" }}/etc/instant-connect-worker{{ end }}
{{- define "icw.ledgerFolder" }}/var/lib/instant-connect-worker{{ end }}

{{- /* `file` if the ledger file is on a volume, otherwise empty. */}}
{{- define "icw.ledgerVolume" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- if and (eq $settings.ledger.kind "file") .Values.persistence.enabled }}file{{ end -}}
{{- end }}

{{- /* Settings derived from the mounted files, by section, as JSON. */}}
{{- define "icw.derivedSettings" -}}
{{- $root := . -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- $derived := dict -}}
{{- $sections := dict "amqp" "amqp" "webex" "instant_connect" "hosts" "hosts" "webex-connect" "webex_connect" "receipts" "receipts" "receipts-key" "receipts" "redis" "ledger" -}}
{{- range $secret := include "icw.secrets" . | fromJsonArray -}}
{{- $path := printf "%s/%s/%s" (include "icw.folder" $root) $secret.thing $secret.file -}}
{{- $key := printf "%s_file" $secret.file -}}
{{- /* With an issuer of JWTs, the Secret has their secret instead of a service key. */}}
{{- if and (eq $secret.thing "webex-connect") $settings.webex_connect.jwt_issuer }}{{ $key = "jwt_secret_file" }}{{ end -}}
{{- $section := get $sections $secret.thing -}}
{{- $_ := set $derived $section (merge (dict $key $path) (get $derived $section | default dict)) -}}
{{- end -}}
{{- if eq $settings.ledger.kind "file" -}}
{{- $_ := set $derived "ledger" (dict "path" (printf "%s/%s.ledger" (include "icw.ledgerFolder" $root) $settings.topology.prefix)) -}}
{{- end -}}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret -}}
{{- $_ := set $derived "tls" (dict "ca_file" (printf "%s/ca/ca.crt" (include "icw.folder" $root))) -}}
{{- end -}}
{{- toJson $derived -}}
{{- end }}

{{- /* The sources of a client's token: a list of `secret`, `digest`, `value`, `external`, as JSON. (list $ "flows") */}}
{{- define "icw.clientSources" -}}
{{- $root := index . 0 -}}
{{- $client := get $root.Values.ingress.clients (index . 1) | default dict -}}
{{- $sources := list -}}
{{- if $client.existingSecret }}{{ $sources = append $sources "secret" }}{{ end -}}
{{- if $client.tokenSha256 }}{{ $sources = append $sources "digest" }}{{ end -}}
{{- if $client.token }}{{ $sources = append $sources "value" }}{{ end -}}
{{- if and $root.Values.externalSecrets.enabled (get $root.Values.externalSecrets.ingressClients (index . 1)) }}{{ $sources = append $sources "external" }}{{ end -}}
{{- toJson $sources -}}
{{- end }}

{{- /* The token and secret files of the ingress's clients, as a JSON list of {client, setting, name, secret, key}. `name`: the file's. */}}
{{- define "icw.clientSecrets" -}}
{{- $root := . -}}
{{- $secrets := list -}}
{{- range $name, $client := .Values.ingress.clients -}}
{{- $sources := include "icw.clientSources" (list $root $name) | fromJsonArray -}}
{{- $token := dict "client" $name "setting" "token_file" "name" $name -}}
{{- if has "secret" $sources }}{{ $secrets = append $secrets (merge (dict "secret" $client.existingSecret "key" ($client.existingSecretKey | default "token")) $token) }}
{{- else if has "value" $sources }}{{ $secrets = append $secrets (merge (dict "secret" (printf "%s-tokens" (include "icw.ingressName" $root)) "key" $name) $token) }}
{{- else if has "external" $sources }}{{ $secrets = append $secrets (merge (dict "secret" (printf "%s-clients" (include "icw.ingressName" $root)) "key" $name) $token) }}{{ end -}}
{{- /* A client's name has no dot. */}}
{{- if $client.signingSecret }}{{ $secrets = append $secrets (dict "client" $name "setting" "signing_secret_file" "name" (printf "%s.signing" $name) "secret" $client.signingSecret "key" ($client.signingSecretKey | default "signing-secret")) }}{{ end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end }}

{{- /* Settings that only the ingress has, by section, as JSON. */}}
{{- define "icw.ingressSettings" -}}
{{- $folder := include "icw.folder" . -}}
{{- $listen := printf "%s:%d" (ternary "[::]" "0.0.0.0" .Values.admin.ipv6) (int64 .Values.ingress.port) -}}
{{- $ingress := dict "listen" $listen -}}
{{- if .Values.ingress.tls.existingSecret -}}
{{- $_ := set $ingress "tls_cert_file" (printf "%s/ingress-tls/tls.crt" $folder) -}}
{{- $_ := set $ingress "tls_key_file" (printf "%s/ingress-tls/tls.key" $folder) -}}
{{- end -}}
{{- if .Values.ingress.tls.clientCaSecret }}{{ $_ := set $ingress "client_ca_file" (printf "%s/ingress-client-ca/ca.crt" $folder) }}{{ end -}}
{{- $derived := dict "ingress" $ingress -}}
{{- range $name, $client := .Values.ingress.clients -}}
{{- $_ := set $derived (printf "ingress.clients.%s" $name) (dict "token_sha256" $client.tokenSha256 "scopes" $client.scopes "rate" $client.rate "burst" $client.burst "allowed_addresses" $client.allowedAddresses) -}}
{{- end -}}
{{- range include "icw.clientSecrets" . | fromJsonArray -}}
{{- $_ := set (get $derived (printf "ingress.clients.%s" .client)) .setting (printf "%s/clients/%s" $folder .name) -}}
{{- end -}}
{{- toJson $derived -}}
{{- end }}

{{- define "icw.servicePort" -}}
{{- .Values.ingress.service.port | default (ternary 443 80 (ne .Values.ingress.tls.existingSecret "")) | int64 -}}
{{- end }}

{{- /* Seconds in which a request that arrives at the end of ingress.drain gets its response. */}}
{{- define "icw.requestSeconds" }}13{{ end }}

{{- /*
The settings file of a worker. It has no settings of the ingress, so that a new client does not restart the workers.
*/}}
{{- define "icw.toml" -}}
{{- $sections := mergeOverwrite (deepCopy (.Values.config | default dict)) (include "icw.derivedSettings" . | fromJson) -}}
{{- include "icw.tomlOf" (omit $sections "ingress") -}}
{{- end }}

{{- /* The settings file of the ingress and of `helm test`: the worker's settings, because both validate events, and the ingress's own. */}}
{{- define "icw.ingressToml" -}}
{{- $sections := mergeOverwrite (deepCopy (.Values.config | default dict)) (include "icw.derivedSettings" . | fromJson) (include "icw.ingressSettings" . | fromJson) -}}
{{- include "icw.tomlOf" $sections -}}
{{- end }}

{{- /*
A settings file of the program. Each value is written with toJson, because toToml writes 32 as 32.0 and 1000000 as 1e+06, which
the program refuses. JSON strings, numbers, booleans and lists of strings are valid TOML.
*/}}
{{- define "icw.tomlOf" -}}
{{- range $section, $keys := . }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ if kindIs "map" $value }}{{ include "icw.inlineTable" $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}

{{- /* An inline table of TOML with strings. */}}
{{- define "icw.inlineTable" -}}
{{- $entries := list -}}
{{- range $key, $value := . }}{{ $entries = append $entries (printf "%s = %s" (toJson $key) (toJson $value)) }}{{ end -}}
{ {{ join ", " $entries }} }
{{- end }}

{{- /* The port of a URL, or the default port of its scheme. */}}
{{- define "icw.port" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{- /* The collector's URL, from the program's setting or else from OpenTelemetry's variables; empty if none is set. */}}
{{- define "icw.collector" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- $url := $settings.telemetry.otlp_endpoint -}}
{{- range $name := list "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" "OTEL_EXPORTER_OTLP_ENDPOINT" -}}
{{- range $.Values.extraEnv -}}
{{- if and (not $url) (eq .name $name) }}{{ $url = .value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $url -}}
{{- end }}

{{- /* The HTTPS ports of the values, of the APIs' URLs and of a proxy, as a JSON list. */}}
{{- define "icw.httpsPorts" -}}
{{- $settings := include "icw.settings" . | fromJson -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.https.ports }}{{ $ports = append $ports (int64 .) }}{{ end -}}
{{- $urls := list $settings.instant_connect.url -}}
{{- if eq $settings.hosts.delivery "webex" }}{{ $urls = append $urls $settings.hosts.webex_url }}{{ end -}}
{{- if eq $settings.guests.delivery "webex-connect" }}{{ $urls = append $urls $settings.webex_connect.url }}{{ end -}}
{{- range .Values.extraEnv -}}
{{- if and (has (upper .name) (list "HTTPS_PROXY" "HTTP_PROXY" "ALL_PROXY")) .value -}}
{{- /* A proxy without a scheme is an HTTP proxy, as in the program. */}}
{{- $urls = append $urls (ternary .value (printf "http://%s" .value) (contains "://" .value)) -}}
{{- end -}}
{{- end -}}
{{- range $urls }}{{ $ports = append $ports (include "icw.port" . | int64) }}{{ end -}}
{{- toJson (uniq $ports) -}}
{{- end }}

{{- /* The Prometheus job of the workers. The Prometheus Operator names it after the PodMonitor. */}}
{{- define "icw.job" -}}
{{- .Values.prometheusRule.job | default (printf "%s/%s" .Release.Namespace (include "icw.fullname" .)) -}}
{{- end }}
