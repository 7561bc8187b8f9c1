{{- /*
Kubernetes' restricted profile. Values cannot weaken it. On OpenShift the platform assigns uid, group and fsGroup.
*/}}
{{- define "icw.podSecurityContext" -}}
{{- $own := dict "fsGroupChangePolicy" "Always" -}}
{{- if not .Values.openshift -}}
{{- $own = merge $own (dict "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532) -}}
{{- end -}}
{{- $demanded := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.podSecurityContext) $demanded) -}}
{{- end }}

{{- define "icw.securityContext" -}}
{{- $demanded := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true "privileged" false
  "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.securityContext) $demanded) -}}
{{- end }}

{{- /* Containers from the values. Fields that a container sets override the restricted security context. (list $ containers) */}}
{{- define "icw.containers" -}}
{{- $root := index . 0 -}}
{{- range index . 1 -}}
{{- $own := include "icw.securityContext" $root | fromYaml -}}
{{- $container := deepCopy . -}}
{{- $_ := set $container "securityContext" (mergeOverwrite $own (.securityContext | default dict)) }}
{{ toYaml (list $container) }}
{{- end -}}
{{- end }}

{{- define "icw.env" -}}
- name: ICW_CONFIG
  value: {{ include "icw.folder" . }}/settings/settings.toml
# The image sets this variable too, and a variable overrides the settings file.
- name: ICW_ADMIN__LISTEN
  value: {{ printf "%s:%d" (ternary "[::]" "0.0.0.0" .Values.admin.ipv6) (int64 .Values.admin.port) | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /*
The secrets of a component, as a JSON list of {thing, secret, key, file}. The ingress calls no API, so it has no bot token. Only the
ingress accepts receipts.
(list $ "worker"), also "ingress" or "test"
*/}}
{{- define "icw.secretsOf" -}}
{{- $secrets := list -}}
{{- $isIngress := eq (index . 1) "ingress" -}}
{{- $isWorker := eq (index . 1) "worker" -}}
{{- range include "icw.secrets" (index . 0) | fromJsonArray -}}
{{- if or (not $isIngress) (has .thing (list "amqp" "redis" "receipts" "receipts-key")) -}}
{{- if not (and $isWorker (has .thing (list "receipts" "receipts-key"))) }}{{ $secrets = append $secrets . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end }}

{{- /* True if a component has the settings and secrets of the ingress: the ingress, and the pod of `helm test`. (list $ "worker") */}}
{{- define "icw.hasIngress" -}}
{{- if and (index . 0).Values.ingress.enabled (ne (index . 1) "worker") }}true{{ end -}}
{{- end }}

{{- /* Mounts folders, never single files: Kubernetes does not update a subPath mount when its Secret changes. (list $ "worker") */}}
{{- define "icw.volumeMounts" -}}
{{- $root := index . 0 -}}
- name: settings
  mountPath: {{ include "icw.folder" $root }}/settings
  readOnly: true
{{- range include "icw.secretsOf" . | fromJsonArray }}
- name: {{ .thing }}
  mountPath: {{ include "icw.folder" $root }}/{{ .thing }}
  readOnly: true
{{- end }}
{{- if include "icw.hasIngress" . }}
{{- if include "icw.clientSecrets" $root | fromJsonArray }}
- name: clients
  mountPath: {{ include "icw.folder" $root }}/clients
  readOnly: true
{{- end }}
{{- if $root.Values.ingress.tls.existingSecret }}
- name: ingress-tls
  mountPath: {{ include "icw.folder" $root }}/ingress-tls
  readOnly: true
{{- end }}
{{- if $root.Values.ingress.tls.clientCaSecret }}
- name: ingress-client-ca
  mountPath: {{ include "icw.folder" $root }}/ingress-client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- with $root }}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}
- name: ca
  mountPath: {{ include "icw.folder" . }}/ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* (list $ "worker") */}}
{{- define "icw.volumes" -}}
{{- $root := index . 0 -}}
- name: settings
  configMap:
    name: {{ include (ternary "icw.ingressName" "icw.fullname" (eq (include "icw.hasIngress" .) "true")) $root }}
    defaultMode: 0440
{{- range include "icw.secretsOf" . | fromJsonArray }}
- name: {{ .thing }}
  secret:
    secretName: {{ .secret }}
    # If the Secret or the key is missing, the pod waits, and its events show the reason.
    optional: false
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: {{ .file }}
{{- end }}
{{- if include "icw.hasIngress" . }}
{{- with include "icw.clientSecrets" $root | fromJsonArray }}
- name: clients
  projected:
    defaultMode: 0440
    sources:
      {{- range . }}
      - secret:
          name: {{ .secret }}
          optional: false
          items:
            - key: {{ .key | quote }}
              path: {{ .name | quote }}
      {{- end }}
{{- end }}
{{- with $root.Values.ingress.tls.existingSecret }}
- name: ingress-tls
  secret:
    secretName: {{ . }}
    optional: false
    defaultMode: 0440
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- end }}
{{- with $root.Values.ingress.tls.clientCaSecret }}
- name: ingress-client-ca
  secret:
    secretName: {{ . }}
    optional: false
    defaultMode: 0440
    items:
      - key: {{ $root.Values.ingress.tls.clientCaSecretKey | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with $root }}
{{- with .Values.caBundle }}
{{- if or .existingConfigMap .existingSecret }}
- name: ca
  {{- if .existingSecret }}
  secret:
    secretName: {{ .existingSecret }}
  {{- else }}
  configMap:
    name: {{ .existingConfigMap }}
  {{- end }}
    optional: false
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The parts of the pod spec that worker, ingress and test share. */}}
{{- define "icw.podSpec" -}}
serviceAccountName: {{ include "icw.serviceAccountName" . }}
# The program does not use the Kubernetes API.
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "icw.podSecurityContext" . | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
