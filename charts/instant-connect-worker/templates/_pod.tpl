{{- /*
Kubernetes' restricted profile. Values can't weaken it. On OpenShift the platform assigns uid, group and fsGroup.
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

{{- /* Mounts folders, never single files: Kubernetes does not update a subPath mount when its Secret changes. */}}
{{- define "icw.volumeMounts" -}}
- name: settings
  mountPath: {{ include "icw.folder" . }}/settings
  readOnly: true
{{- range include "icw.secrets" . | fromJsonArray }}
- name: {{ .thing }}
  mountPath: {{ include "icw.folder" $ }}/{{ .thing }}
  readOnly: true
{{- end }}
{{- if or .Values.caBundle.existingConfigMap .Values.caBundle.existingSecret }}
- name: ca
  mountPath: {{ include "icw.folder" . }}/ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "icw.volumes" -}}
- name: settings
  configMap:
    name: {{ include "icw.fullname" . }}
    defaultMode: 0440
{{- range include "icw.secrets" . | fromJsonArray }}
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

{{- /* The parts of the pod spec that worker and test share. */}}
{{- define "icw.podSpec" -}}
serviceAccountName: {{ include "icw.serviceAccountName" . }}
# The worker does not use the Kubernetes API.
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
