"""The command ``repre-jax`` of a checkout: ``python main.py --config=configs/dino_vits.py``."""

if __name__ == "__main__":
    # Not above: every process that reads images imports this file, too, and needs no command.
    from repre_jax.command_line import run

    run()
