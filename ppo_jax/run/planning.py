"""Says what a run would need, before it is started."""

import os
import resource
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from ppo_jax.run import compiled, pipeline, sinks
from ppo_jax.run.compiled import Programs
from ppo_jax.run.console import Console
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.pipeline import Plan
from ppo_jax.run.storage import folder

_UPDATES = 3  # of the calibration, after one that is not counted
_REST = 60_000_000  # bytes of what is not compiled here, the report's programs and its figure


class Needs(NamedTuple):
    """What a run needs; bytes are above what a process holds once everything is imported."""

    agents: int
    group_size: int  # agents at once
    bytes_per_agent: float
    compiling_bytes: int  # which the compiler and small programs take; less where they are cached
    bytes_in_all: int
    bytes_free: int
    agents_that_fit: int  # at once
    compile_seconds: float
    train_seconds: float  # expected


def show(experiment: Experiment, console: Console) -> Needs:
    """Compile the experiment's programs, run a few updates, say what the whole run would need.

    Nothing is written. Raises CommandError as a run would.
    """
    plan = pipeline.make_plan(experiment)
    pipeline.print_header(plan, console)
    with plan.device_errors():
        needs = _measure(plan, console)
    fits = needs.agents_that_fit >= needs.group_size
    remedy = "they fit" if fits else f"give --group-size {max(needs.agents_that_fit, 1)}"
    at_once = "all at once" if needs.group_size >= needs.agents else f"{needs.group_size:,} at once"
    for line in (
        f"an agent needs {folder.size(needs.bytes_per_agent)}; {needs.agents:,} agents, {at_once},"
        f" with {folder.size(needs.compiling_bytes)} of the compiler: "
        f"{folder.size(needs.bytes_in_all)}",
        f"free {folder.size(needs.bytes_free)}: about {needs.agents_that_fit:,} agents fit at once;"
        f" {remedy}",
        f"expected: {needs.compile_seconds:.0f} s of compiling, {needs.train_seconds:,.0f} s of"
        " training, then the evaluation",
    ):
        console.say(line)
    return needs


def _measure(plan: Plan, console: Console) -> Needs:
    sinks.import_tensorboard()  # a run would, and imports are not counted
    before, lanes, devices_used = _peak(), plan.lanes, len(plan.chosen)
    free = _free(plan.chosen)
    with console.waiting(f"compiling {plan.experiment.agents.recipe} for {lanes:,} agents at once"):
        programs, compile_seconds = _compile(plan, lanes)
    compiling = max(0, _peak() - before) + _REST
    per_agent = programs.memory() * devices_used / lanes
    updates, agents = plan.experiment.algorithm.num_updates or 0, len(plan.table)
    fit = int((free - compiling) / per_agent)
    if fit < lanes:  # what does not fit cannot be timed: time what does
        lanes = max(devices_used, fit // 2 // devices_used * devices_used)
        programs, _ = _compile(plan, lanes)
    each = _seconds_of_update(plan, lanes, programs) / lanes
    return Needs(
        agents=agents,
        group_size=plan.lanes,
        bytes_per_agent=per_agent,
        compiling_bytes=compiling,
        bytes_in_all=round(compiling + per_agent * plan.lanes),
        bytes_free=free,
        agents_that_fit=max(fit, 0),
        compile_seconds=compile_seconds,
        train_seconds=each * agents * updates,
    )


def _compile(plan: Plan, lanes: int) -> tuple[Programs, float]:
    started = time.perf_counter()
    config = plan.table.configure(next(plan.table.batches(lanes)).agent_ids)
    return compiled.build(config, lanes, plan.chosen), time.perf_counter() - started


def _seconds_of_update(plan: Plan, lanes: int, programs: Programs) -> float:
    agent_ids = next(plan.table.batches(lanes)).agent_ids
    config = plan.table.configure(agent_ids)
    states = programs.init(plan.table.seeds[agent_ids], config)
    states, rows = programs.chunk(states, config, 1)
    jax.block_until_ready(rows)
    updates = min(_UPDATES, compiled.capacity(config))
    started = time.perf_counter()
    states, rows = programs.chunk(states, config, updates)
    jax.block_until_ready(programs.summarize(rows, np.ones(lanes, bool)))
    return (time.perf_counter() - started) / updates


def _peak() -> int:
    """The most bytes of memory that this process has held."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) * 1024
    except OSError:  # no Linux; there the figure below would be the parent's, if that is larger
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free(chosen: list[jax.Device]) -> int:
    """Bytes that the devices have left; for a CPU, the machine."""
    statistics = [device.memory_stats() for device in chosen]
    if all(statistics):
        return sum(one["bytes_limit"] - one["bytes_in_use"] for one in statistics)
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except OSError:  # no Linux: all the memory that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
