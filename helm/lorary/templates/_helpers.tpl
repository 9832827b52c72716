{{/* Names, labels, and what every pod has in common. */}}

{{- define "lorary.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Call with (dict "root" $ "part" "serving" "pool" $name). */}}
{{- define "lorary.selector" -}}
app.kubernetes.io/name: lorary
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- with .pool }}
lorary/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "lorary.labels" -}}
{{ include "lorary.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Call with (dict "root" $ "image" .Values.registry.image). */}}
{{- define "lorary.image" -}}
{{- $tagged := printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- if .image.digest }}{{ $tagged }}@{{ .image.digest }}{{ else }}{{ $tagged }}{{ end -}}
{{- end }}

{{/* A pool with its defaults filled in, as YAML. Call with (dict "root" $ "pool" $given). */}}
{{- define "lorary.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.poolDefaults) (.pool | default dict) | toYaml -}}
{{- end }}

{{/* Refuses pools of which one would silently get no request. */}}
{{- define "lorary.checkPools" -}}
{{- $owners := dict }}
{{- range $pool, $given := .Values.pools }}
{{- $p := include "lorary.pool" (dict "root" $ "pool" $given) | fromYaml }}
{{- $name := printf "%s-serving-%s" (include "lorary.name" $) $pool }}
{{- if gt (len $name) 63 }}
{{- fail (printf "pools.%s: the name %s has more than 63 characters; choose a shorter one" $pool $name) }}
{{- end }}
{{- if gt (int $p.autoscaling.min) (int $p.autoscaling.max) }}
{{- fail (printf "pools.%s.autoscaling: min is above max" $pool) }}
{{- end }}
{{- range $domain := $p.domains | default (list "") }}
{{- if hasKey $owners $domain }}
{{- fail (printf "pools.%s.domains: pool %s serves %s already; let each domain have one pool, and one pool have none" $pool (get $owners $domain) ($domain | default "what no other pool does")) }}
{{- end }}
{{- $_ := set $owners $domain $pool }}
{{- end }}
{{- end }}
{{- end }}

{{/* What sends requests to the pools: envoy, gateway or none. */}}
{{- define "lorary.front" -}}
{{- if .Values.pools }}{{ .Values.front.kind }}{{ else }}none{{ end }}
{{- end }}

{{/* What Pod Security "restricted" asks of a pod, and of a container. */}}
{{- define "lorary.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "lorary.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "lorary.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Spread replicas over hosts, then zones, as far as they go. Call as lorary.selector. */}}
{{- define "lorary.spread" -}}
{{- $labels := include "lorary.selector" . -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $labels | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Where the store is, for every process that reads it. */}}
{{- define "lorary.storeEnv" -}}
- name: LORARY_STORE
  value: {{ required "store.url: say where the registry lies, s3://BUCKET/PREFIX" .Values.store.url | quote }}
{{- if hasPrefix "s3://" .Values.store.url }}
- name: AWS_DEFAULT_REGION
  value: {{ .Values.store.region | quote }}
{{- with .Values.store.endpoint }}
- name: LORARY_S3_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.credentialsSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.store.credentialsSecret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "lorary.storeMount" -}}
{{- if .Values.store.claim }}
- name: store
  mountPath: /store
{{- end }}
{{- end }}

{{- define "lorary.storeVolume" -}}
{{- with .Values.store.claim }}
- name: store
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}

{{/* A map of LORARY_ settings as variables. */}}
{{- define "lorary.settings" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* NetworkPolicy rules that every pod needs: names, and the bucket. */}}
{{- define "lorary.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    - {port: {{ .Values.networkPolicy.storePort }}, protocol: TCP}
  {{- with .Values.networkPolicy.store }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Paths that apps POST to: the front, the Gateway's route and a test against the server's own list
read them here. `model`: the body names a model, which decides the pool. `other`: any pool answers. */}}
{{- define "lorary.paths" -}}
model:
  - /v1/chat/completions
  - /v1/completions
  - /v1/responses
  - /v1/embeddings
  - /v1/messages
  - /v1/messages/count_tokens
  - /classify
  - /score
  - /v1/score
  - /rerank
  - /v1/rerank
  - /v2/rerank
  - /v1/adapters/prefetch
other:
  - /v1/feedback
kept:
  - /v1/files
  - /v1/batches
{{- end }}
