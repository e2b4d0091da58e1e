"""Says what a run would need, before it is started."""

import time
from typing import NamedTuple

from rich.filesize import decimal

from ppo_jax.run import compiled, devices, pipeline, sinks
from ppo_jax.run.agents import Lanes
from ppo_jax.run.console import Console
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.pipeline import Plan
from ppo_jax.run.training import Batch

_PEAK = "VmHWM"  # the most memory that this process has held
_UPDATES = 3  # of the calibration, after one that is not counted
_REST = 60_000_000  # bytes of what is not compiled here, the ranking's programs and the report


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
    size, fit = needs.group_size, needs.agents_that_fit
    at_once = "all at once" if size >= needs.agents else f"{size:,} at once"
    console.say(
        f"an agent needs {decimal(round(needs.bytes_per_agent))}; {needs.agents:,} agents,"
        f" {at_once}, with {decimal(needs.compiling_bytes)} of the compiler:"
        f" {decimal(needs.bytes_in_all)}"
    )
    remedy = "they fit" if fit >= size else f"give --group-size {max(fit, 1)}"
    console.say(f"free {decimal(needs.bytes_free)}: about {fit:,} agents fit at once; {remedy}")
    console.say(
        f"expected: {needs.compile_seconds:.0f} s of compiling, {needs.train_seconds:,.0f} s of"
        " training, then the evaluation"
    )
    return needs


def _measure(plan: Plan, console: Console) -> Needs:
    sinks.import_tensorboard()  # a run would, and imports are not counted
    config, agents, count = plan.experiment.algorithm, len(plan.table), len(plan.chosen)
    before, lanes = devices.memory(_PEAK), plan.lanes
    free = devices.memory_free(plan.chosen)
    started = time.perf_counter()
    with console.waiting(f"compiling {plan.experiment.agents.recipe} for {lanes:,} agents at once"):
        own = next(plan.table.batches(lanes))
        programs = compiled.build(plan.table.configure(own.agent_ids), lanes, plan.chosen)
    compile_seconds = time.perf_counter() - started
    compiling = max(0, devices.memory(_PEAK) - before) + _REST
    per_agent = programs.memory() * count / lanes
    fit = int((free - compiling) / per_agent)
    if fit < lanes:  # what does not fit cannot be timed: time what does
        lanes = max(count, fit // 2 // count * count)
        own = Lanes(own.agent_ids[:lanes], own.is_real[:lanes])
        programs = compiled.build(plan.table.configure(own.agent_ids), lanes, plan.chosen)
    batch, updates = Batch(plan.table, own, programs), min(_UPDATES, compiled.capacity(config))
    for size in (1, updates):
        started = time.perf_counter()
        batch.start_chunk(size)
        batch.finish_chunk()
    each = (time.perf_counter() - started) / updates / lanes
    return Needs(
        agents=agents,
        group_size=plan.lanes,
        bytes_per_agent=per_agent,
        compiling_bytes=compiling,
        bytes_in_all=round(compiling + per_agent * plan.lanes),
        bytes_free=free,
        agents_that_fit=max(fit, 0),
        compile_seconds=compile_seconds,
        train_seconds=each * agents * (config.num_updates or 0),
    )
