# Sourced by start-head.sh and start-worker.sh: what all machines of the cluster have alike.

# Who has not the token is refused: by the head, by the other machines, by the dashboard.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
# Seconds that a stopped job has for its checkpoint, between SIGTERM and SIGKILL; Ray gives 3.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-300}
export RAY_USAGE_STATS_ENABLED=0
# A machine that was cut off ends its Ray, and lets go of the run's folder, when its messages to the head were not
# received for 20 s and the head was not found again for 30 more; with Ray's 120 and 60 it takes four minutes.
export RAY_grpc_client_keepalive_timeout_ms=${RAY_grpc_client_keepalive_timeout_ms:-20000}
export RAY_gcs_rpc_server_reconnect_timeout_s=${RAY_gcs_rpc_server_reconnect_timeout_s:-30}

HEAD_PORT=6379
# Fixed, so that a firewall can know them. Between the machines of the cluster they are open, to others closed.
PORTS=(
  --node-manager-port=6380
  --object-manager-port=6381
  --dashboard-agent-grpc-port=6382
  --runtime-env-agent-port=6383
  --metrics-export-port=6384
  --dashboard-agent-listen-port=52365
  --min-worker-port=10002
  --max-worker-port=10999
)

# LABELS_FILE: lines of `address key=value[,key=value]`; a machine takes the line of its own address, if it has one.
LABELS_FILE=${LABELS_FILE:-$(dirname "${BASH_SOURCE[0]}")/labels.txt}

say() { echo "$(date +%T) $(basename "$0"): $*" >&2; }

refuse() {
  say "$*"
  exit 2
}

# The token file, made where there is none, readable by its owner alone.
make_token() {
  [ -e "$RAY_AUTH_TOKEN_PATH" ] && return
  (
    umask 077
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH.$$"
    mv "$RAY_AUTH_TOKEN_PATH.$$" "$RAY_AUTH_TOKEN_PATH"
  )
  say "made the token $RAY_AUTH_TOKEN_PATH; copy it to the other machines: scp -p"
}

check_token() {
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || refuse "no token in $RAY_AUTH_TOKEN_PATH; copy the head's file there with scp -p"
  case $(stat -c %a "$RAY_AUTH_TOKEN_PATH") in
    *00) ;;
    *) refuse "$RAY_AUTH_TOKEN_PATH can be read by others; chmod 600 it" ;;
  esac
}

# Sets LABELS to the option for this machine's labels, or to nothing.
find_labels() {
  LABELS=()
  [ -r "$LABELS_FILE" ] || return 0
  local address found=
  for address in "$@" $(hostname -I); do
    found=$(awk -v address="$address" '$1 == address { print $2; exit }' "$LABELS_FILE")
    [ -z "$found" ] || break
  done
  [ -z "$found" ] || LABELS=(--labels="$found")
}
