"""The command ``repre-jax`` of a checkout: ``python main.py --config=configs/dino_vits.py``."""

import sys

from repre_jax.command_line import main

if __name__ == "__main__":
    sys.exit(main())
