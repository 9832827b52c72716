# Let Envoy end: refuse health checks, close each connection after the answer under way, and wait until
# none is, for SECONDS at the most. Envoy itself ends after this. The image has bash and no curl. Nodes
# that do not know yet that this pod ends may send connections here for NOTICE seconds.
#
#   bash drain.sh SECONDS NOTICE

ask() {
  exec 3<>/dev/tcp/127.0.0.1/9901 || return
  printf '%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
  while IFS= read -r line <&3; do printf '%s\n' "$line"; done
  exec 3>&-
}

ask 'POST /healthcheck/fail' >/dev/null
sleep "$2"
while ((SECONDS < $1)); do
  [[ $(ask 'GET /stats?filter=http.api.downstream_rq_active') == *'rq_active: 0'* ]] && break
  sleep 1
done
