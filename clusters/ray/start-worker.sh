#!/usr/bin/env bash
# This machine joins the cluster of a head, in the foreground, and joins again whenever its Ray ends: a machine that
# was cut off has been given up, and comes back as a new one. With DETACH=1 it joins once, in the background.
#
#   start-worker.sh HEAD [options of `ray start`]          start-worker.sh 10.0.0.1 --labels=group=attacker
#
# HEAD is the address that start-head.sh was given. The token is the head's file, copied.
#   HEAD_WAIT_S   longest wait, in seconds, for a head that does not answer (600)
#   PAUSE_S       seconds before it joins again (5)
#   TRIES         times in a row that Ray may end within a minute of its start: another token, another version (3)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 1 ] && [[ $1 != -* ]] || refuse "wanted the head's address: start-worker.sh 10.0.0.1"
head=$1
shift
check_token
find_labels
start=(ray start --address="$head:$HEAD_PORT" "${PORTS[@]}" "${LABELS[@]}" "$@")

head_answers() { timeout 5 bash -c "exec 3<> /dev/tcp/$head/$HEAD_PORT" 2> /dev/null; }

await_head() {
  local begin=$SECONDS said=$SECONDS
  until head_answers; do
    ((SECONDS - begin < ${HEAD_WAIT_S:-600})) || refuse "$head:$HEAD_PORT did not answer for ${HEAD_WAIT_S:-600} s"
    if ((SECONDS - said >= 30)); then
      said=$SECONDS
      say "waiting for $head:$HEAD_PORT, $((SECONDS - begin)) s of at most ${HEAD_WAIT_S:-600}"
    fi
    sleep 1
  done
}

ray_pid=
stop() {
  trap '' TERM INT
  if [ -n "$ray_pid" ]; then
    kill -TERM "$ray_pid" 2> /dev/null || true
    wait "$ray_pid" || true # a machine that works is given half a minute to finish
  fi
  exit 0
}
trap stop TERM INT

await_head
[ -z "${DETACH:-}" ] || exec "${start[@]}"
short=0
while ((short < ${TRIES:-3})); do
  began=$SECONDS
  "${start[@]}" --block &
  ray_pid=$!
  wait "$ray_pid" && code=0 || code=$?
  ray_pid=
  ((SECONDS - began < 60)) && short=$((short + 1)) || short=0
  say "Ray ended with $code after $((SECONDS - began)) s"
  ((short < ${TRIES:-3})) || break
  sleep "${PAUSE_S:-5}" & wait $!
  await_head
done
refuse "Ray ended $short times within a minute of its start, see above"
