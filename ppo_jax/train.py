"""python -m ppo_jax.train: the command `ppo-jax train`."""

import sys

from ppo_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
