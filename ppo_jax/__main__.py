"""python -m ppo_jax COMMAND."""

import sys

from ppo_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
