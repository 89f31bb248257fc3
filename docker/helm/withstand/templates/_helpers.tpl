{{/* Name of everything in a release; KubeRay and Kubernetes append up to 23 characters to it. */}}
{{- define "withstand.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels by which the pods of a part are selected; takes a list of the root and the part's name. Ray's pods have no
app.kubernetes.io/name, which KubeRay sets and selects by. */}}
{{- define "withstand.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "withstand.labels" -}}
{{ include "withstand.selector" . }}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end -}}

{{/* Repository and tag; takes a list of the root and what differs from `image`. */}}
{{- define "withstand.image" -}}
{{- $image := merge (deepCopy (index . 1)) (index . 0).Values.image -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}

{{/* What is the same for each pod that runs the image: the user is the Dockerfile's. */}}
{{- define "withstand.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "withstand.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Resources with GPUs; takes a list of resources and the number. */}}
{{- define "withstand.resources" -}}
{{- $resources := deepCopy (index . 0) -}}
{{- if index . 1 -}}
{{- $resources = merge $resources (dict "limits" (dict "nvidia.com/gpu" (index . 1))) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* A variable whose value is in a Secret; takes a list of the Secret's name, the variable, the key, and whether it may be missing. */}}
{{- define "withstand.secret" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ required "secret: name a Secret that has WITHSTAND_API_KEYS and the other keys that values.yaml lists" (index . 0) }}
      key: {{ index . 2 }}
      {{- if index . 3 }}
      optional: true
      {{- end }}
{{- end -}}

{{/* Ray's token, without which nobody talks to its processes. */}}
{{- define "withstand.token" -}}
- name: RAY_AUTH_MODE
  value: token
{{ include "withstand.secret" (list .Values.secret "RAY_AUTH_TOKEN" "RAY_AUTH_TOKEN" false) }}
{{- end -}}

{{/* A setting as its variable takes it: lists as JSON, whole numbers without an exponent. */}}
{{- define "withstand.value" -}}
{{- if kindIs "string" . -}}
{{ . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{- define "withstand.credentials" -}}
{{- with .Values.store.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* A claim; takes a list of the root, its suffix, its values and its access mode. */}}
{{- define "withstand.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "withstand.name" (index . 0) }}-{{ index . 1 }}
  labels: {{- include "withstand.labels" (list (index . 0) (index . 1)) | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep # an uninstalled release leaves its data behind
spec:
  accessModes: [{{ index . 3 }}]
  {{- with (index . 2).storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ (index . 2).size }}
{{- end -}}

{{- define "withstand.autoscales" -}}
{{- if and .Values.ray.enabled .Values.ray.workers.gpus (gt (int .Values.ray.workers.max) (int .Values.ray.workers.min)) }}true{{ end -}}
{{- end -}}
