{{/* Fails when values do not go together, which the schema cannot say in words of its own:
     such a value would be ignored, or fail long after the install. */}}
{{- define "keyplane.refuse" -}}
{{- with include "keyplane.faults" . | trim }}
{{- fail (printf "values that do not work:\n%s" .) }}
{{- end }}
{{- end }}

{{/* One line for each fault, with what to do about it. */}}
{{- define "keyplane.faults" -}}
{{- include (printf "keyplane.faultsOf.%s" .Values.store) . }}
{{- include "keyplane.faultsOfNames" . }}
{{- if and .Values.imports.namespaces (not .Values.imports.enabled) }}
imports.namespaces lets nobody import while imports.enabled is false: set it to true, or leave the list empty
{{- end }}
{{- if .Values.rest.enabled }}
{{- with (fromToml .Values.rest.policy).Error }}
rest.policy is no TOML: {{ . | replace "\n" " " }}: write it as docs/rest-identity.md says, and try it with keyplane policy check
{{- end }}
{{- end }}
{{- $taken := include "keyplane.ownVariables" . | fromJsonArray }}
{{- range .Values.extraEnv }}
{{- $name := upper .name }}
{{- range $own := $taken }}
{{- if or (eq $name $own.name) (and (not $own.section) (hasPrefix (printf "%s__" $own.name) $name)) }}
extraEnv may not have {{ $name }}, which the chart sets itself: leave it out, and see values.yaml for what can be chosen
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "keyplane.faultsOf.embedded" -}}
{{- if or .Values.postgresql.secretName .Values.postgresql.caKey }}
postgresql is of the postgresql shape, and store is embedded: set store to postgresql, or leave postgresql out
{{- end }}
{{- if or .Values.persistence.size .Values.persistence.storageClassName }}
persistence is of the postgresql shape, and an embedded pod has the node's embedded.stateDir: set store to postgresql, or leave persistence out
{{- end }}
{{- if gt (int .Values.rest.replicas) 1 }}
rest.replicas is of the postgresql shape, and an embedded installation is one pod: set store to postgresql, or leave it out; rest.workers makes more processes
{{- end }}
{{- end }}

{{- define "keyplane.faultsOf.postgresql" -}}
{{- if .Values.embedded.node }}
embedded.node is of the embedded shape, and store is postgresql: leave it out; nodeSelector chooses nodes
{{- end }}
{{- end }}

{{- define "keyplane.faultsOfNames" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" (include "keyplane.fullname" .)) }}
objects cannot be named {{ include "keyplane.fullname" . | quote }}: set fullnameOverride to a name of a-z, 0-9 and "-" that begins with a letter
{{- end }}
{{- if not (regexMatch "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$" (include "keyplane.name" .)) }}
nameOverride cannot be a label: use letters, digits and "-"
{{- end }}
{{- end }}

{{/* Every environment variable that a value of the chart stands for, as a list: the settings
     that are rendered, and what a pod gets besides. A variable would win over them. */}}
{{- define "keyplane.ownVariables" -}}
{{- $own := list (dict "name" "KEYPLANE_CONFIG") (dict "name" "KEYPLANE_PROVIDER__NODE") (dict "name" "KEYPLANE_STORE" "section" true) (dict "name" "KEYPLANE_STORE__POSTGRESQL") }}
{{- if not (include "keyplane.embedded" .) }}
{{- $own = append $own (dict "name" "POD_NAME") }}
{{- end }}
{{- range $section, $fields := include "keyplane.settings" . | fromToml }}
{{- $name := printf "KEYPLANE_%s" (upper $section) }}
{{- $own = append $own (dict "name" $name "section" (kindIs "map" $fields)) }}
{{- if kindIs "map" $fields }}
{{- range $field, $_ := $fields }}
{{- $own = append $own (dict "name" (printf "%s__%s" $name (upper $field))) }}
{{- end }}
{{- end }}
{{- end }}
{{- $own | uniq | toJson }}
{{- end }}
