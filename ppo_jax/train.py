"""python -m ppo_jax.train: the command `ppo-jax train`."""

import sys

from ppo_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
