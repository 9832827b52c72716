{{/* Names, labels, and what every pod has in common. */}}

{{- define "lorary.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{- define "lorary.fullname" -}}
{{- $name := .Release.Name -}}
{{- with .Values.nameOverride }}{{ $name = printf "%s-%s" $name . }}{{ end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Call with (dict "root" $ "part" "serving" "pool" $name). */}}
{{- define "lorary.selector" -}}
app.kubernetes.io/name: {{ include "lorary.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- with .pool }}
lorary/pool: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "lorary.labels" -}}
{{ include "lorary.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* A repository without a registry is looked for in `global.imageRegistry`.
Call with (dict "root" $ "image" .Values.registry.image). */}}
{{- define "lorary.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.imageRegistry -}}
{{- if not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $repository) }}{{ $repository = printf "%s/%s" . $repository }}{{ end -}}
{{- end -}}
{{- $tagged := printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- if .image.digest }}{{ $tagged }}@{{ .image.digest }}{{ else }}{{ $tagged }}{{ end -}}
{{- end }}

{{/* A pool with its defaults filled in, as YAML. Call with (dict "root" $ "pool" $given). */}}
{{- define "lorary.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.podDefaults) (deepCopy .root.Values.poolDefaults) (.pool | default dict) | toYaml -}}
{{- end }}

{{/* Refuses pools of which one would silently get no request. */}}
{{- define "lorary.checkPools" -}}
{{- $owners := dict }}
{{- range $pool, $given := .Values.pools }}
{{- $p := include "lorary.pool" (dict "root" $ "pool" $given) | fromYaml }}
{{- $name := printf "%s-serving-%s" (include "lorary.fullname" $) $pool }}
{{- if gt (len $name) 63 }}
{{- fail (printf "pools.%s: the name %s has more than 63 characters; choose a shorter one" $pool $name) }}
{{- end }}
{{- if gt (int $p.autoscaling.min) (int $p.autoscaling.max) }}
{{- fail (printf "pools.%s.autoscaling: min is above max" $pool) }}
{{- end }}
{{- with $p.rollingUpdate }}
{{- if and (regexMatch "^0+%?$" (toString .maxUnavailable)) (regexMatch "^0+%?$" (toString .maxSurge)) }}
{{- fail (printf "pools.%s.rollingUpdate: maxUnavailable and maxSurge are both 0, so no replica could be replaced" $pool) }}
{{- end }}
{{- end }}
{{- if and $p.modelClaim $p.modelImage.reference }}
{{- fail (printf "pools.%s: name modelClaim or modelImage, not both" $pool) }}
{{- end }}
{{- $mounted := or $p.modelClaim $p.modelImage.reference $p.endpoints }}
{{- range $p.extraVolumeMounts }}
{{- if and $mounted (eq (clean .mountPath) "/models") }}
{{- fail (printf "pools.%s: the model is mounted at /models already; mount %s elsewhere" $pool .name) }}
{{- end }}
{{- if hasPrefix "/models" .mountPath }}{{ $mounted = true }}{{ end }}
{{- end }}
{{- if and (hasPrefix "/models" $p.model) (not $mounted) }}
{{- fail (printf "pools.%s: nothing is mounted at /models; name modelClaim or modelImage" $pool) }}
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

{{/* What Pod Security "restricted" asks of a container; of a pod, see lorary.podSpec. */}}
{{- define "lorary.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Labels and annotations of a pod. The chart's version is not among them: another one is no reason
to restart anything. Call with (dict "root" $ "part" "registry" "pod" $pod "annotations" (dict)); `pod`
is a component's values over `podDefaults`. */}}
{{- define "lorary.podMetadata" -}}
labels:
  {{- include "lorary.selector" . | nindent 2 }}
  {{- with .pod.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy (.annotations | default dict)) (.pod.podAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every pod's specification has, its own containers and volumes apart.
Call with (dict "root" $ "account" "name" "pod" $pod). */}}
{{- define "lorary.podSpec" -}}
{{- with .account }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
{{- /* Or a Service named vllm or lorary sets VLLM_PORT or LORARY_PORT to its address. */}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
  {{- /* OpenShift assigns each namespace users and groups, and refuses pods that choose their own. */}}
  {{- if not (.root.Capabilities.APIVersions.Has "security.openshift.io/v1") }}
  {{- with .pod.podSecurityContext }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- $pod := .pod }}
{{- range list "nodeSelector" "tolerations" "affinity" "runtimeClassName" "priorityClassName" }}
{{- if get $pod . }}
{{ pick $pod . | toYaml }}
{{- end }}
{{- end }}
{{- $security := include "lorary.containerSecurity" . | fromYaml }}
{{- with .pod.initContainers }}
initContainers:
  {{- range . }}
  -
    {{- merge (deepCopy .) (dict "securityContext" $security) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A container's variables: its own, those of every process, then `extraEnv`. A later one replaces
an earlier one of its name. Call with (dict "root" $ "pod" $pod "own" $yaml). */}}
{{- define "lorary.env" -}}
{{- $all := concat (.own | fromYamlArray) (include "lorary.surroundings" .root | fromYamlArray) (.pod.extraEnv | default list) }}
{{- $seen := dict }}
{{- $kept := list }}
{{- range reverse $all }}
{{- if not (hasKey $seen .name) }}
{{- $_ := set $seen .name true }}
{{- $kept = prepend $kept . }}
{{- end }}
{{- end }}
{{- if $kept }}
env:
  {{- toYaml $kept | nindent 2 }}
{{- end }}
{{- end }}

{{/* The proxy and the authorities that a site has, for every process, as a list of variables. */}}
{{- define "lorary.surroundings" -}}
{{- $name := include "lorary.fullname" . }}
{{- with .Values.proxy }}
{{- if or .http .https }}
{{- $direct := concat (list "localhost" "127.0.0.1" "::1" "169.254.169.254" "169.254.170.23" ".svc" ".cluster.local" (printf "%s-registry" $name) (printf "%s-front" $name)) .noProxy }}
{{- range $pool, $_ := $.Values.pools }}
{{- $direct = append $direct (printf "%s-serving-%s" $name $pool) }}
{{- end }}
{{- range $variable, $value := dict "HTTP_PROXY" .http "HTTPS_PROXY" .https "NO_PROXY" (join "," $direct) }}
{{- if $value }}
- {name: {{ $variable }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.caBundle.configMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- {name: {{ . }}, value: /etc/lorary/ca/{{ $.Values.caBundle.key }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Hugging Face's token, for gated models. Call with the values hfTokenSecret. */}}
{{- define "lorary.hfToken" -}}
{{- if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}

{{/* Call both with (dict "root" $ "part" "front" "pod" $pod). Refused is what the cluster would refuse
only after a part of the release has changed. */}}
{{- define "lorary.extraMounts" -}}
{{- $own := list "ca" "cache" "config" "downloads" "model" "servers-first" "shm" "store" "tls" "tmp" "work" }}
{{- $where := .pool | default .part }}
{{- $there := $own }}
{{- range .pod.extraVolumes }}
{{- if has .name $there }}
{{- fail (printf "%s: extraVolumes: there is a volume %s already; choose another name" $where .name) }}
{{- end }}
{{- $there = append $there .name }}
{{- end }}
{{- $mounts := .pod.extraVolumeMounts | default list }}
{{- range .pod.initContainers }}{{ $mounts = concat $mounts (.volumeMounts | default list) }}{{ end }}
{{- range $mounts }}
{{- if not (has .name $there) }}
{{- fail (printf "%s: nothing in extraVolumes is named %s, which is mounted at %s; a list of a component replaces the one of podDefaults" $where .name .mountPath) }}
{{- end }}
{{- end }}
{{- if .root.Values.caBundle.configMap }}
- {name: ca, mountPath: /etc/lorary/ca, readOnly: true}
{{- end }}
{{- with .pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "lorary.extraVolumes" -}}
{{- with .root.Values.caBundle.configMap }}
- name: ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .pod.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The name of a component's service account, and the account, if the chart makes it.
Call with (dict "root" $ "part" "registry" "account" .Values.registry.serviceAccount). */}}
{{- define "lorary.account" -}}
{{- if .account.create -}}
{{ .account.name | default (printf "%s-%s" (include "lorary.fullname" .root) .part) }}
{{- else -}}
{{ .account.name | default "default" }}
{{- end }}
{{- end }}

{{- define "lorary.accountManifest" -}}
{{- if .account.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "lorary.account" . }}
  labels:
    {{- include "lorary.labels" . | nindent 4 }}
  {{- with .account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* Drains of nodes take one pod at a time; one that is not ready holds no drain up. Call with
(dict "root" $ "part" "serving" "pool" $pool "name" $name). */}}
{{- define "lorary.disruptionBudget" -}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "lorary.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "lorary.selector" . | nindent 6 }}
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

{{/* A quantity of memory in bytes. */}}
{{- define "lorary.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $text := ternary (int64 . | toString) (toString .) (kindIs "float64" .) }}
{{- $number := regexFind "^[0-9.]+" $text }}
{{- $unit := trimPrefix $number $text }}
{{- if not (and $number (hasKey $units $unit)) }}{{ fail (printf "%s is no amount of memory; write 1Gi or 512Mi" $text) }}{{ end }}
{{- mulf (float64 $number) (get $units $unit) | int64 }}
{{- end }}

{{/* A map of LORARY_ settings as variables. */}}
{{- define "lorary.settings" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* NetworkPolicy rules that every pod needs: names, and what the site adds. */}}
{{- define "lorary.egress" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* And those of every process that reads the store: the bucket, and the proxy. */}}
{{- define "lorary.storeEgress" -}}
{{ include "lorary.egress" . }}
{{- range list .Values.proxy.http .Values.proxy.https | compact | uniq }}
{{- $port := regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) }}
- ports:
    - {port: {{ $port }}, protocol: TCP}
{{- end }}
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
