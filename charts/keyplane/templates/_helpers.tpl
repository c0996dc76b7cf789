{{- define "keyplane.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "keyplane.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "keyplane.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "keyplane.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "keyplane.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "keyplane.embedded" -}}
{{- if eq .Values.store "embedded" }}true{{ end }}
{{- end }}

{{/* Where a pod has its state. A volume's own root belongs to root, so it is one level below. */}}
{{- define "keyplane.stateDir" -}}
{{- if include "keyplane.embedded" . }}{{ .Values.embedded.stateDir }}{{ else }}/var/lib/keyplane/state{{ end }}
{{- end }}

{{/* Selects the pods of one part. Takes a list: the root context and the part. */}}
{{- define "keyplane.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "keyplane.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The labels of an object. Takes a list as above. */}}
{{- define "keyplane.labels" -}}
{{- $root := index . 0 -}}
{{ include "keyplane.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: keyplane
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The part whose pods run the operator, and the one whose pods serve REST. */}}
{{- define "keyplane.operatorPart" -}}
{{- if include "keyplane.embedded" . }}node{{ else }}operator{{ end }}
{{- end }}
{{- define "keyplane.restPart" -}}
{{- if include "keyplane.embedded" . }}node{{ else }}rest{{ end }}
{{- end }}

{{/* Asks for health; takes the name of a port. */}}
{{- define "keyplane.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 45
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* What no container may do. */}}
{{- define "keyplane.confinement" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
