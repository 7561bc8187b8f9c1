{{- define "icw.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "icw.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "icw.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- /* Selects every pod of the release. It uses no values, because a Deployment's selector cannot be changed. */}}
{{- define "icw.podsOfRelease" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selects workers only, without the pod of `helm test`. */}}
{{- define "icw.selector" -}}
{{ include "icw.podsOfRelease" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "icw.ingressSelector" -}}
{{ include "icw.podsOfRelease" . }}
app.kubernetes.io/component: ingress
{{- end }}

{{- /* The name of the ingress's objects. A Service's name has at most 63 characters. */}}
{{- define "icw.ingressName" -}}
{{ include "icw.fullname" . | trunc 55 | trimSuffix "-" }}-ingress
{{- end }}

{{- /* Labels of every object except pods, as YAML. */}}
{{- define "icw.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" .Chart.Name
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" (.Chart.AppVersion | toString)
  "app.kubernetes.io/part-of" "instant-connect"
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (mergeOverwrite (deepCopy (.Values.commonLabels | default dict)) $labels) -}}
{{- end }}

{{- /*
The metadata of an object. (dict "root" $ "name" "suffix" "component" … "labels" … "annotations" … "namespace" …), all optional except root. Objects of the
component ingress have their own name.
*/}}
{{- define "icw.metadata" -}}
{{- $root := .root -}}
name: {{ include (ternary "icw.ingressName" "icw.fullname" (eq (.component | default "") "ingress")) $root }}{{ with .name }}-{{ . }}{{ end }}
namespace: {{ default $root.Release.Namespace .namespace }}
labels:
  {{- $own := include "icw.labels" $root | fromYaml }}
  {{- with .component }}{{ $_ := set $own "app.kubernetes.io/component" . }}{{ end }}
  {{- toYaml (mergeOverwrite (deepCopy (.labels | default dict)) $own) | nindent 2 }}
{{- $annotations := mergeOverwrite (deepCopy ($root.Values.commonAnnotations | default dict)) (deepCopy (.annotations | default dict)) }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "icw.image" -}}
{{- $image := .Values.image -}}
{{- $name := $image.repository -}}
{{- with $image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- $name }}:{{ default .Chart.AppVersion $image.tag }}{{ with $image.digest }}@{{ . }}{{ end -}}
{{- end }}
