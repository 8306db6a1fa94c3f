{{/*
Names are fixed: a namespace has one release, and clients know the gateway as modelserving-gateway.
*/}}
{{- define "modelserving.selectorLabels" -}}
app.kubernetes.io/name: modelserving
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "modelserving.labels" -}}
{{ include "modelserving.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: modelserving
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "modelserving.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What Pod Security "restricted" asks of a Pod. */}}
{{- define "modelserving.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "modelserving.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where a Pod may run; the same few values for both programs. */}}
{{- define "modelserving.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A Pod's annotations: where Prometheus scrapes it, if so asked, and its own, which win. */}}
{{- define "modelserving.podAnnotations" -}}
{{- $scrape := dict }}
{{- if .root.Values.metrics.scrapeAnnotations }}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/port" (.port | toString) "prometheus.io/path" "/metrics" }}
{{- end }}
{{- with merge (deepCopy .own) $scrape }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
