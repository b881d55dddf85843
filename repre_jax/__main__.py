"""``python -m repre_jax``, and what the installed command ``repre-jax`` calls."""


def run() -> None:
    """The command; see ``repre_jax.command_line.run``."""
    # Not above: every process that reads images imports this file, too, and needs no command.
    from repre_jax.command_line import run

    run()


if __name__ == "__main__":
    run()
