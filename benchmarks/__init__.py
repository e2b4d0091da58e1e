"""Benchmarks: each module is a command, `python -m benchmarks.NAME`."""

import os

from ppo_jax.run import xla

xla.set_flags(os.cpu_count() or 1)  # as the command does, before jax starts
