#!/usr/bin/env bash
# The head of a Ray cluster, on this machine, in the foreground; with DETACH=1 in the background.
#
#   start-head.sh ADDRESS [options of `ray start`]         start-head.sh 10.0.0.1 --num-cpus=0
#
# ADDRESS is this machine's, as the others see it. `ray` is the one of the environment that ragdist is installed in.
# The dashboard, where jobs are submitted, answers this machine alone: from elsewhere `ssh -L 8265:127.0.0.1:8265`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 1 ] && [[ $1 != -* ]] || refuse "wanted this machine's address: start-head.sh 10.0.0.1"
address=$1
shift
make_token
check_token
find_labels "$address"
block=(--block)
[ -z "${DETACH:-}" ] || block=()
say "on the other machines: start-worker.sh $address"
exec ray start --head --node-ip-address="$address" --port=$HEAD_PORT --dashboard-host=127.0.0.1 \
  --dashboard-port=8265 "${PORTS[@]}" "${LABELS[@]}" "${block[@]}" "$@"
