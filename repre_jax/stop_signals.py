"""The signals that ask a run to stop: only the thread that trains and saves may be told of them."""

import signal

# Ctrl-C, a scheduler's wish, a terminal that was closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
