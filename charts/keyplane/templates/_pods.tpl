{{/* What all pods have in common: user, confinement, places. */}}
{{- define "keyplane.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .Values.user }}
  runAsGroup: {{ int .Values.user }}
  # For volumes alone; directories of the node stay as they are.
  fsGroup: {{ int .Values.user }}
  # At each start it would open the files of the state directory to the group.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Annotations that make pods follow a change of their settings. */}}
{{- define "keyplane.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- with $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "keyplane.labels" . | nindent 2 }}
annotations:
  keyplane.dev/settings: {{ include "keyplane.settings" $root | sha256sum | trunc 32 }}
  {{- with $root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The image and the environment of every container of keyplane. */}}
{{- define "keyplane.program" -}}
image: {{ include "keyplane.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- include "keyplane.confinement" . | nindent 0 }}
env:
  {{- if include "keyplane.embedded" . }}
  - name: KEYPLANE_PROVIDER__NODE
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- else }}
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  # The audit of two pods must never be taken for that of one.
  - name: KEYPLANE_PROVIDER__NODE
    value: $(POD_NAME).{{ .Release.Namespace }}
  - name: KEYPLANE_STORE__POSTGRESQL
    valueFrom:
      secretKeyRef:
        name: {{ .Values.postgresql.secretName | quote }}
        key: {{ .Values.postgresql.connectionKey | quote }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "keyplane.mounts" -}}
- {name: config, mountPath: /etc/keyplane/keyplane.toml, subPath: keyplane.toml, readOnly: true}
{{- if include "keyplane.embedded" . }}
# At the node's own path, since the token's configuration there names it.
- {name: state, mountPath: {{ .Values.embedded.stateDir }}}
- {name: socket, mountPath: {{ .Values.embedded.socketDir }}, readOnly: true}
{{- else }}
- {name: state, mountPath: /var/lib/keyplane}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- if include "keyplane.copied" . }}
- {name: secrets, mountPath: /run/keyplane-secrets, readOnly: true}
{{- end }}
{{- if and (not (include "keyplane.embedded" .)) .Values.postgresql.caKey }}
- {name: postgresql-ca, mountPath: /etc/keyplane/postgresql, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "keyplane.volumes" -}}
- name: config
  configMap: {name: {{ include "keyplane.fullname" . }}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if include "keyplane.copied" . }}
- name: secrets
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- if .Values.token.pinSecret.name }}
- name: pin
  secret:
    secretName: {{ .Values.token.pinSecret.name | quote }}
    items: [{key: {{ .Values.token.pinSecret.key | quote }}, path: pin}]
{{- end }}
{{- if include "keyplane.embedded" . }}
- name: state
  hostPath: {path: {{ .Values.embedded.stateDir | quote }}, type: Directory}
- name: socket
  hostPath: {path: {{ .Values.embedded.socketDir | quote }}, type: Directory}
{{- else }}
{{- if .Values.postgresql.passwordKey }}
- name: postgresql-password
  secret:
    secretName: {{ .Values.postgresql.secretName | quote }}
    items: [{key: {{ .Values.postgresql.passwordKey | quote }}, path: password}]
{{- end }}
{{- if .Values.postgresql.caKey }}
- name: postgresql-ca
  secret:
    secretName: {{ .Values.postgresql.secretName | quote }}
    items: [{key: {{ .Values.postgresql.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Names of the secrets that are copied: files that nobody but keyplane's user may read. */}}
{{- define "keyplane.copied" -}}
{{- if .Values.token.pinSecret.name }}pin {{ end -}}
{{- if and (not (include "keyplane.embedded" .)) .Values.postgresql.passwordKey }}postgresql-password{{ end -}}
{{- end }}

{{/* A volume of a Secret belongs to root, and keyplane takes only files of its own user. */}}
{{- define "keyplane.copySecrets" -}}
- name: secrets
  image: {{ include "keyplane.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- include "keyplane.confinement" . | nindent 2 }}
  command: [sh, -c]
  args:
    - |
      set -eu
      umask 077
      {{- if .Values.token.pinSecret.name }}
      install -m 0600 /run/secrets-given/pin/pin /run/keyplane-secrets/pin
      {{- end }}
      {{- if contains "postgresql-password" (include "keyplane.copied" .) }}
      install -m 0600 /run/secrets-given/postgresql/password /run/keyplane-secrets/postgresql-password
      {{- end }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: secrets, mountPath: /run/keyplane-secrets}
    {{- if .Values.token.pinSecret.name }}
    - {name: pin, mountPath: /run/secrets-given/pin, readOnly: true}
    {{- end }}
    {{- if contains "postgresql-password" (include "keyplane.copied" .) }}
    - {name: postgresql-password, mountPath: /run/secrets-given/postgresql, readOnly: true}
    {{- end }}
{{- end }}

{{/* Makes the state directory of a pod of the postgresql shape; the operator's may also make
     the installation. It is repeated until token and store answer.
     A pod whose claim was deleted has its name and no state directory: it joins again. There is
     never a second pod of that name, which is what join asks about otherwise. */}}
{{- define "keyplane.join" -}}
{{- $root := index . 0 -}}
- name: join
  {{- include "keyplane.program" $root | nindent 2 }}
  {{- if and $root.Values.initialise.enabled (eq (index . 1) "operator") }}
  command: [sh, -c]
  args: ['keyplane join --again || keyplane init --namespace "$0"', {{ $root.Values.initialise.namespace | quote }}]
  {{- else }}
  args: [join, --again]
  {{- end }}
  resources: {{- toYaml $root.Values.operator.resources | nindent 4 }}
  volumeMounts: {{- include "keyplane.mounts" $root | nindent 4 }}
{{- end }}

{{- define "keyplane.operatorContainer" -}}
- name: operator
  {{- include "keyplane.program" . | nindent 2 }}
  args: [serve, operator]
  ports:
    - {name: op-metrics, containerPort: 28676}
  {{- include "keyplane.probes" "op-metrics" | nindent 2 }}
  resources: {{- toYaml .Values.operator.resources | nindent 4 }}
  volumeMounts:
    {{- include "keyplane.mounts" . | nindent 4 }}
    {{- include "keyplane.accountMount" . | nindent 4 }}
{{- end }}

{{- define "keyplane.restContainer" -}}
- name: rest
  {{- include "keyplane.program" . | nindent 2 }}
  args: [serve, rest]
  ports:
    - {name: https, containerPort: 28674}
    {{- range $worker := until (int .Values.rest.workers) }}
    - {name: metrics-{{ $worker }}, containerPort: {{ add 28677 $worker }}}
    {{- end }}
  {{- include "keyplane.restProbes" . | nindent 2 }}
  resources: {{- toYaml .Values.rest.resources | nindent 4 }}
  volumeMounts:
    {{- include "keyplane.mounts" . | nindent 4 }}
    # As a directory, so that a change is seen without a restart.
    - {name: policy, mountPath: /etc/keyplane/policy, readOnly: true}
    - {name: tls, mountPath: /etc/keyplane/tls, readOnly: true}
    {{- if .Values.rest.serviceAccountToken }}
    {{- include "keyplane.accountMount" . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "keyplane.restVolumes" -}}
- name: policy
  configMap: {name: {{ include "keyplane.fullname" . }}-policy}
- name: tls
  secret:
    secretName: {{ .Values.rest.tls.secretName | quote }}
    defaultMode: 0440
{{- end }}

{{- define "keyplane.accountMount" -}}
- {name: account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* The token of the service account, for those containers alone that mount it. */}}
{{- define "keyplane.accountVolume" -}}
- name: account
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/* The claim for the state directory of each pod of the postgresql shape. */}}
{{- define "keyplane.claim" -}}
- metadata:
    name: state
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .Values.persistence.storageClassName }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources: {requests: {storage: {{ .Values.persistence.size | default "2Gi" | quote }}}}
{{- end }}
