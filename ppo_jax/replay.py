"""python -m ppo_jax.replay: the command `ppo-jax replay`."""

import sys

from ppo_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["replay", *sys.argv[1:]]))
