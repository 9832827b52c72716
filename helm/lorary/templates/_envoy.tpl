{{/* Envoy's configuration, the only one there is: `make fleet` renders it, too. This part is read at
the start. What follows from pools and domains is in two files that Envoy reads again when they change:
an edit of a pool restarts no front.

A request's `model` is read from its body and becomes a header; the part before `@` is what the
replicas of a pool are hashed by, so that every name of an adapter meets where it is loaded. */}}

{{- define "lorary.envoy" -}}
{{- $front := .Values.front -}}
{{- $limit := int64 $front.maxBodyBytes -}}
node: {id: front, cluster: lorary}
admin:
  # Loopback only: it can end the process.
  address:
    socket_address: {address: 127.0.0.1, port_value: 9901}
layered_runtime:
  layers:
    - name: chart
      static_layer:
        # The expressions below are ours and run in linear time; a pool may serve many domains.
        re2.max_program_size.error_level: 65536
        re2.max_program_size.warn_level: 65536
overload_manager:
  refresh_interval: 0.1s
  # Requests of which at least 64 KiB are kept are ranked by what they keep.
  buffer_factory_config: {minimum_account_to_track_power_of_two: 16}
  resource_monitors:
    # Bodies that nobody finishes, and answers that nobody reads, must not get the process killed.
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {{ div (mul (include "lorary.bytes" $front.resources.limits.memory) 3) 4 }}
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 20000
  actions:
    # HTTP/2 only: the largest first, and the more of them the fuller it is.
    - name: envoy.overload_actions.reset_high_memory_stream
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          scaled: {scaling_threshold: 0.7, saturation_threshold: 0.9}
    - name: envoy.overload_actions.shrink_heap
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.7}}]
    - name: envoy.overload_actions.disable_http_keepalive
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]
    # Whoever is connected is served to the end; the rest must come again.
    - name: envoy.overload_actions.reject_incoming_connections
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]
    - name: envoy.overload_actions.stop_accepting_requests
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]
dynamic_resources:
  cds_config:
    {{- include "lorary.envoy.file" "clusters.yaml" | nindent 4 }}
static_resources:
  listeners:
    - name: api
      address:
        {{- include "lorary.envoy.listen" (dict "root" $ "port" 8000) | nindent 8 }}
      # Of what is read ahead or not yet sent. A body has a limit of its own, see the routes.
      per_connection_buffer_limit_bytes: 262144
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                {{- include "lorary.envoy.connections" . | nindent 16 }}
                http_filters:
                  {{- include "lorary.envoy.filters" . | nindent 18 }}
                local_reply_config:
                  {{- include "lorary.envoy.replies" . | nindent 18 }}
                rds:
                  route_config_name: api
                  config_source:
                    {{- include "lorary.envoy.file" "routes.yaml" | nindent 20 }}
          {{- if $front.tlsSecret }}
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_params: {tls_minimum_protocol_version: TLSv1_2}
                tls_certificate_sds_secret_configs:
                  - name: front
                    sds_config:
                      resource_api_version: V3
                      path_config_source:
                        path: /etc/envoy/certificate.yaml
                        # A renewed certificate is taken in as soon as it is there.
                        watched_directory: {path: /etc/envoy/tls}
          {{- end }}
    - name: stats
      # Probes and whoever scrapes are answered when there is no memory for anybody else.
      bypass_overload_manager: true
      address:
        {{- include "lorary.envoy.listen" (dict "root" $ "port" 9902) | nindent 8 }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: stats
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: stats
                      domains: ["*"]
                      routes:
                        # Nothing else of the admin interface can be reached from outside.
                        {{- range list "/ready" "/stats/prometheus" }}
                        - match: {path: {{ . }}, headers: [{name: ":method", string_match: {exact: GET}}]}
                          route: {cluster: admin}
                        {{- end }}
  clusters:
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
{{- end }}

{{- define "lorary.envoy.listen" -}}
{{- $both := ternary ", ipv4_compat: true" "" (eq .root.Values.listenAddress "::") -}}
socket_address: {address: {{ .root.Values.listenAddress | quote }}, port_value: {{ .port }}{{ $both }}}
{{- end }}

{{/* A file that is read again when the ConfigMap is another. */}}
{{- define "lorary.envoy.file" -}}
resource_api_version: V3
path_config_source:
  path: /etc/envoy/{{ . }}
  watched_directory: {path: /etc/envoy}
{{- end }}

{{- define "lorary.envoy.clusters" -}}
resources:
  {{- range $pool, $given := .Values.pools }}
  {{- include "lorary.envoy.pool" (dict "root" $ "name" $pool "pool" $given) | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "lorary.envoy.connections" -}}
stat_prefix: api
codec_type: AUTO
use_remote_address: true
normalize_path: true
merge_slashes: true
path_with_escaped_slashes_action: REJECT_REQUEST
max_request_headers_kb: 32
request_headers_timeout: 10s
# For the whole request to arrive; answers have their own time.
request_timeout: 60s
stream_idle_timeout: {{ .Values.front.idleSeconds }}s
drain_timeout: 5s
server_header_transformation: PASS_THROUGH
{{- if .Values.front.accessLog }}
access_log:
  - name: envoy.access_loggers.stdout
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
      log_format:
        # Neither bodies, nor keys, nor what stands behind a question mark.
        json_format:
          time: "%START_TIME%"
          address: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
          method: "%REQ(:METHOD)%"
          path: "%PATH(NQ)%"
          model: "%REQ(X-LORARY-MODEL)%"
          status: "%RESPONSE_CODE%"
          flags: "%RESPONSE_FLAGS%"
          milliseconds: "%DURATION%"
          received: "%BYTES_RECEIVED%"
          sent: "%BYTES_SENT%"
          pool: "%UPSTREAM_CLUSTER%"
          replica: "%UPSTREAM_HOST%"
          request: "%REQ(X-REQUEST-ID)%"
{{- end }}
common_http_protocol_options:
  idle_timeout: 3600s
  headers_with_underscores_action: REJECT_REQUEST
http2_protocol_options:
  max_concurrent_streams: 256
  initial_stream_window_size: 65536
  initial_connection_window_size: 1048576
{{- end }}

{{- define "lorary.envoy.filters" -}}
- name: envoy.filters.http.json_to_metadata
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata
    request_rules:
      allow_empty_content_type: true
      rules:
        - selectors: [{key: model}]
          on_present: {metadata_namespace: lorary, key: model}
          on_missing: {metadata_namespace: lorary, key: model, value: none}
          on_error: {metadata_namespace: lorary, key: model, value: invalid}
- name: envoy.filters.http.header_mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
    mutations:
      request_mutations:
        # Whatever a caller sent under that name is replaced.
        - append:
            header: {key: x-lorary-model, value: "%DYNAMIC_METADATA(lorary:model)%"}
            append_action: OVERWRITE_IF_EXISTS_OR_ADD
- name: envoy.filters.http.router
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    # Upstream filters and statistics need no span of their own.
    suppress_envoy_headers: true
{{- end }}

{{/* What Envoy refuses itself, in OpenAI's envelope, with the words of the gate. */}}
{{- define "lorary.envoy.replies" -}}
{{- $reported := list
  (list 413 "invalid_request_error" "too_large" (printf "The body is above the limit of %d bytes. Send a shorter prompt." (int64 .Values.front.maxBodyBytes)))
  (list 503 "server_error" "no_replica" "No replica can take the request now. Retry in a second.")
  (list 504 "server_error" "timeout" "The replica did not answer in time. Retry.")
  (list 408 "invalid_request_error" "timeout" "The request did not arrive in time. Send it again.")
-}}
mappers:
  {{- range $reported }}
  - filter:
      status_code_filter:
        comparison: {op: EQ, value: {default_value: {{ index . 0 }}, runtime_key: lorary.reply.{{ index . 0 }}}}
    {{- if eq (index . 0) 503 }}
    headers_to_add:
      - header: {key: retry-after, value: "1"}
        append_action: ADD_IF_ABSENT
    {{- end }}
    body_format_override:
      json_format:
        error: {message: {{ index . 3 | quote }}, type: {{ index . 1 }}, param: null, code: {{ index . 2 }}}
  {{- end }}
{{- end }}

{{- define "lorary.envoy.routes" -}}
resources:
  - "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: api
    virtual_hosts:
      - name: api
        domains: ["*"]
        # Room for the largest body, since the model's name may stand at its end.
        request_body_buffer_limit: {{ int64 .Values.front.maxBodyBytes }}
        routes:
          # It has become a header: nothing goes on that a header must not hold.
          - match:
              prefix: /
              headers:
                - name: x-lorary-model
                  invert_match: true
                  string_match: {safe_regex: {regex: "[!-~]{0,256}"}}
                - {name: ":method", string_match: {exact: POST}}
            {{- include "lorary.envoy.refusal" (list 400 "invalid_request_error" "invalid_name" "`model` is no name. Write DOMAIN/ADAPTER, DOMAIN/ADAPTER@VERSION or DOMAIN/ADAPTER@ALIAS.") | nindent 12 }}
          {{- $paths := include "lorary.paths" . | fromYaml }}
          {{- $default := "" }}
          {{- range $pool, $given := .Values.pools }}
          {{- $p := include "lorary.pool" (dict "root" $ "pool" $given) | fromYaml }}
          {{- if $p.domains }}
          - match:
              safe_regex: {regex: {{ join "|" $paths.model | quote }}}
              headers:
                - name: ":method"
                  string_match: {exact: POST}
                - name: x-lorary-model
                  string_match:
                    safe_regex: {regex: {{ printf "%s|(%s)([/@].*)?" (regexQuoteMeta $p.base) (join "|" $p.domains) | quote }}}
            {{- include "lorary.envoy.route" (dict "root" $ "pool" $pool) | nindent 12 }}
          {{- else }}
          {{- $default = $pool }}
          {{- end }}
          {{- end }}
          {{- $default = $default | default (keys .Values.pools | sortAlpha | first) }}
          - match:
              safe_regex: {regex: {{ join "|" $paths.model | quote }}}
              headers: [{name: ":method", string_match: {exact: POST}}]
            {{- include "lorary.envoy.route" (dict "root" $ "pool" $default) | nindent 12 }}
          {{- range $paths.other }}
          - match:
              path: {{ . }}
              headers: [{name: ":method", string_match: {exact: POST}}]
            {{- include "lorary.envoy.route" (dict "root" $ "pool" $default) | nindent 12 }}
          {{- end }}
          - match:
              safe_regex: {regex: {{ printf "(%s)(/.*)?" (join "|" $paths.kept) | quote }}}
              headers: [{name: ":method", string_match: {safe_regex: {regex: "GET|POST|DELETE"}}}]
            {{- include "lorary.envoy.route" (dict "root" $ "pool" $default) | nindent 12 }}
          - match:
              safe_regex: {regex: "/v1/models(/.*)?"}
              headers: [{name: ":method", string_match: {exact: GET}}]
            {{- include "lorary.envoy.route" (dict "root" $ "pool" $default) | nindent 12 }}
          - match: {path: /health}
            direct_response: {status: 200, body: {inline_string: "{\"status\": \"ok\"}"}}
            response_headers_to_add: [{header: {key: content-type, value: application/json}}]
          - match: {prefix: /}
            {{- include "lorary.envoy.refusal" (list 404 "not_found_error" "route_not_found" "That is not served here. Use /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages or /v1/models.") | nindent 12 }}
{{- end }}

{{/* An answer of Envoy's own. Call with (list STATUS TYPE CODE MESSAGE). */}}
{{- define "lorary.envoy.refusal" -}}
direct_response:
  status: {{ index . 0 }}
  body:
    inline_string: {{ dict "error" (dict "message" (index . 3) "type" (index . 1) "param" nil "code" (index . 2)) | toJson | quote }}
response_headers_to_add: [{header: {key: content-type, value: application/json}}]
{{- end }}

{{- define "lorary.envoy.route" -}}
route:
  cluster: {{ .pool | quote }}
  # A stream lasts as long as it lasts; only its silence is bounded.
  timeout: 0s
  idle_timeout: {{ .root.Values.front.idleSeconds }}s
  {{- if .root.Values.front.adapterAffinity }}
  hash_policy:
    - header:
        header_name: x-lorary-model
        regex_rewrite:
          pattern: {regex: "^([^@]*).*$"}
          substitution: "\\1"
  {{- end }}
  # Only while the caller has seen nothing: another replica then gives as good an answer. A replica
  # answers 503 before its engine has the request, or because it has no engine. Never 429: a limit
  # is meant.
  retry_policy:
    retry_on: connect-failure,refused-stream,reset,retriable-status-codes
    retriable_status_codes: [503]
    num_retries: 2
    retry_host_predicate:
      - name: envoy.retry_host_predicates.previous_hosts
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
    # Among two or three replicas the same one is drawn again often.
    host_selection_retry_max_attempts: 20
    retry_back_off: {base_interval: 0.025s, max_interval: 0.25s}
{{- end }}

{{- define "lorary.envoy.pool" -}}
{{- $front := .root.Values.front -}}
{{- $p := include "lorary.pool" (dict "root" .root "pool" .pool) | fromYaml -}}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {{ .name | quote }}
  connect_timeout: 1s
  # Of an answer that is not read as fast as it comes.
  per_connection_buffer_limit_bytes: 262144
  # Every address behind the name is a replica.
  cluster_type:
    name: envoy.cluster.dns
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
      dns_refresh_rate: 2s
      respect_dns_ttl: false
      dns_lookup_family: V4_PREFERRED
  # A replica that leaves the name is let go when its requests have ended; one that only fails its
  # checks gets no new ones.
  ignore_health_on_host_removal: false
  {{- if $front.adapterAffinity }}
  # Not RING_HASH: its ring is cut anew for another number of replicas, and adapters move between
  # replicas that stayed.
  lb_policy: MAGLEV
  {{- else }}
  lb_policy: ROUND_ROBIN
  {{- end }}
  common_lb_config:
    # With half of the replicas ill, it is the check that is: then all are tried.
    healthy_panic_threshold: {value: 30}
    {{- if $front.adapterAffinity }}
    consistent_hashing_lb_config: {hash_balance_factor: {{ $front.spreadAbove }}}
    {{- end }}
  health_checks:
    - timeout: 3s
      interval: 2s
      interval_jitter: 0.5s
      no_traffic_interval: 5s
      unhealthy_threshold: 2
      healthy_threshold: 1
      always_log_health_check_failures: true
      http_health_check: {path: /health}
  outlier_detection:
    # A replica that cannot be reached. Not one that answers 5xx: an adapter whose files are damaged
    # must not cost the others a replica.
    split_external_local_origin_errors: true
    consecutive_local_origin_failure: 3
    enforcing_consecutive_gateway_failure: 0
    enforcing_consecutive_5xx: 0
    enforcing_success_rate: 0
    enforcing_local_origin_success_rate: 0
    interval: 1s
    base_ejection_time: 5s
    max_ejection_time: 60s
    max_ejection_percent: 50
  circuit_breakers:
    thresholds:
      - max_connections: {{ int64 $front.maxRequests }}
        max_pending_requests: {{ int64 $front.maxRequests }}
        max_requests: {{ int64 $front.maxRequests }}
        retry_budget: {budget_percent: {value: 20}, min_retry_concurrency: 16}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      # Shorter than the server's own, so that a request never meets a connection being closed.
      common_http_protocol_options: {idle_timeout: 4s}
      explicit_http_config:
        http_protocol_options: {}
  load_assignment:
    cluster_name: {{ .name | quote }}
    endpoints:
      - lb_endpoints:
          {{- range $p.endpoints }}
          - endpoint: {address: {socket_address: {address: {{ .address | quote }}, port_value: {{ .port }}}}}
          {{- else }}
          - endpoint: {address: {socket_address: {address: {{ printf "%s-serving-%s" (include "lorary.fullname" .root) .name }}, port_value: 8000}}}
          {{- end }}
{{- end }}
