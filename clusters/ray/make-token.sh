#!/usr/bin/env bash
# Makes the cluster's token, ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH, if there is none; readable by its owner alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_token
check_token
