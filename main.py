"""The command ``repre-jax`` of a checkout: ``python main.py --config=configs/dino_vits.py``."""

from repre_jax.command_line import run

if __name__ == "__main__":
    run()
