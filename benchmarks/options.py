"""How a benchmark is started: its options, apart from main.py's, and its mistakes."""

import sys
from collections.abc import Callable

from absl import app, flags

from repre_jax.errors import UserError
from repre_jax.runs.interruption import Stopped
from repre_jax.terminal import outlive_terminal


def start(main: Callable[[list[str]], None], options: flags.FlagValues) -> None:
    """Parses the command line and runs ``main`` with what is left of it.

    Ends with exit code 2 and one sentence when the user can mend it, and with 128 + the signal
    after a run of it has saved because it was told to stop. The options are values of
    their own, so that importing a benchmark adds nothing to the flags of main.py.
    """
    outlive_terminal()
    if "--help" in sys.argv[1:]:
        print(sys.modules["__main__"].__doc__, options.get_help(), sep="\n")
        return
    try:
        main(options(sys.argv))
    except (flags.Error, app.UsageError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:  # it has said so
        sys.exit(stopped.exit_code)
