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

{{/* How many pods serve REST in the postgresql shape. */}}
{{- define "keyplane.restReplicas" -}}
{{ .Values.rest.replicas | default 2 | int }}
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

{{/* Workers are processes with a port each, and kubelet asks one port of a container. */}}
{{- define "keyplane.restProbes" -}}
{{- if eq (int .Values.rest.workers) 1 }}
{{- include "keyplane.probes" "metrics-0" }}
{{- else -}}
startupProbe:
  exec: {command: {{ include "keyplane.askWorkers" (list . "/livez") }}}
  periodSeconds: 3
  timeoutSeconds: 10
  failureThreshold: 30
livenessProbe:
  exec: {command: {{ include "keyplane.askWorkers" (list . "/livez") }}}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 3
readinessProbe:
  exec: {command: {{ include "keyplane.askWorkers" (list . "/readyz") }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 2
{{- end }}
{{- end }}

{{/* A command that fails unless every worker answers 200. Takes a list: root, path. */}}
{{- define "keyplane.askWorkers" -}}
{{- $ports := list -}}
{{- range $worker := until (int (index . 0).Values.rest.workers) -}}
{{- $ports = append $ports (add 28677 $worker | toString) -}}
{{- end -}}
{{- concat (list "python3" "-I" "-c" (include "keyplane.askPorts" .) (index . 1)) $ports | toJson -}}
{{- end }}

{{- define "keyplane.askPorts" -}}
import http.client, sys
for port in sys.argv[2:]:
    asked = http.client.HTTPConnection("localhost", int(port), timeout=4)
    try:
        asked.request("GET", sys.argv[1])
        status = asked.getresponse().status
    except OSError as error:
        sys.exit(f"port {port}: {error}")
    if status != 200:
        sys.exit(f"port {port}: {status}")
{{- end }}

{{/* Where pods of the embedded shape run: on the node that has the state directory. */}}
{{- define "keyplane.placement" -}}
{{- if include "keyplane.embedded" . -}}
nodeSelector:
  {{- if .Values.embedded.node }}
  kubernetes.io/hostname: {{ .Values.embedded.node | quote }}
  {{- end }}
  {{- if .Values.nodeSelector }}
  {{- toYaml .Values.nodeSelector | nindent 2 }}
  {{- else }}
  node-role.kubernetes.io/control-plane: ""
  {{- end }}
tolerations:
  {{- if .Values.tolerations }}
  {{- toYaml .Values.tolerations | nindent 2 }}
  {{- else }}
  - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
  {{- end }}
{{- else -}}
{{- with .Values.nodeSelector -}}
nodeSelector: {{- toYaml . | nindent 2 }}
{{ end }}
{{- with .Values.tolerations -}}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* What no container may do. */}}
{{- define "keyplane.confinement" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
