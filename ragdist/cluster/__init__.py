"""The engine room: the only folder that says `ray`."""

import os

# Ray would start a cluster of its own for any call after the session is closed, as by a thread that a second Ctrl-C
# left behind. Read when ray is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
