"""Says what a run would need, before it is started: measured, or compiled for another device."""

import functools
import time
from typing import Any

import numpy as np
from rich.filesize import decimal

from ppo_jax import population
from ppo_jax.run import absent, compiled, devices, pipeline, program, sinks
from ppo_jax.run.console import Console
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.pipeline import Plan
from ppo_jax.run.training import Batch

_PEAK = "VmHWM"  # the most memory that this process has held
_UPDATES = 3  # of the calibration, after one that is not counted
_LONG = 5.0  # seconds of an update from which on the first one is enough: little of it is start-up
_REST = 60_000_000  # bytes of what is not compiled here, the ranking's programs and the report
_FEW_AND_MORE = (64, 512)  # agents a device, whose difference tells what one of them needs


def show(experiment: Experiment, console: Console) -> int:
    """Compile the experiment's programs, run a few updates, say what the whole run would need. For
    a device that is not here they are compiled and read.

    Returns: the bytes that it needs, above what a process holds once everything is imported; of
    devices that are not here those of each. Nothing is written. Raises CommandError as a run would.
    """
    plan = pipeline.make_plan(experiment)
    pipeline.print_header(plan, console)
    with plan.device_errors():
        if ":" in experiment.machine.device:  # absent
            return _compile_only(plan, console)
        return _measure(plan, console)


def _measure(plan: Plan, console: Console) -> int:
    sinks.import_tensorboard()  # a run would, and imports are not counted
    config, agents, count = plan.experiment.algorithm, len(plan.table), len(plan.chosen)
    before, lanes = devices.memory(_PEAK), plan.lanes
    free = devices.memory_free(plan.chosen)
    started = time.perf_counter()
    with console.waiting(f"compiling {plan.experiment.agents.recipe} for {lanes:,} agents at once"):
        own = next(plan.table.batches(lanes))
        programs = compiled.build(plan.table.configure(own), lanes, plan.chosen)
    compile_seconds = time.perf_counter() - started
    compiling = max(0, devices.memory(_PEAK) - before) + _REST  # less where programs are cached
    per_agent = programs.memory() * count / lanes
    fit = int((free - compiling) / per_agent)
    if fit < lanes:  # what does not fit cannot be timed: time what does
        lanes = max(count, fit // 2 // count * count)
        own = own[:lanes]
        programs = compiled.build(plan.table.configure(own), lanes, plan.chosen)
    batch, updates = Batch(plan.table, own, programs), min(_UPDATES, compiled.capacity(config))
    for size in (1, updates):
        started = time.perf_counter()
        batch.start_chunk(size)
        batch.finish_chunk()
        seconds = (time.perf_counter() - started) / size
        if seconds > _LONG:
            break
    train_seconds = seconds / lanes * agents
    in_all = round(compiling + per_agent * plan.lanes)
    at_once = "all at once" if plan.lanes >= agents else f"{plan.lanes:,} at once"
    console.say(
        f"an agent needs {decimal(round(per_agent))}; {agents:,} agents, {at_once}, with"
        f" {decimal(compiling)} of the compiler: {decimal(in_all)}"
    )
    console.say(f"free {decimal(free)}: {_fitting(max(fit, 0), plan)}")
    console.say(
        f"expected: {compile_seconds:.0f} s of compiling,"
        f" {train_seconds * (config.num_updates or 0):,.0f} s of training, then the evaluation"
    )
    return in_all


def _compile_only(plan: Plan, console: Console) -> int:
    name, count, lanes = plan.experiment.machine.device, len(plan.chosen), plan.lanes

    @functools.cache
    def build(lanes: int) -> compiled.Programs:
        ids = np.resize(np.arange(len(plan.table)), lanes)
        options = {**population.COMPILER_OPTIONS, **absent.compiler_options(name)}
        with console.waiting(f"compiling for {lanes:,} agents on {name}"):
            return compiled.build(plan.table.configure(ids), lanes, plan.chosen, options)

    started, free = time.perf_counter(), absent.memory(name)
    few, more = (build(size * count).memory() for size in _FEW_AND_MORE)
    per_agent = (more - few) / (_FEW_AND_MORE[1] - _FEW_AND_MORE[0])
    fixed = few - _FEW_AND_MORE[0] * per_agent
    fit = max(int((free - fixed) / per_agent), 0) * count
    shown = lanes if lanes <= fit else _FEW_AND_MORE[0] * count  # what may not fit is not tried
    chunk: Any = build(shown).chunk
    seconds = time.perf_counter() - started
    in_all = build(lanes).memory() if lanes <= fit else round(fixed + lanes / count * per_agent)
    each = "" if count == 1 else f" on each of {count} devices"
    console.say(f"compiled in {seconds:.0f} s, not run: nothing here says how fast")
    together = "1 agent needs" if lanes == 1 else f"{lanes:,} agents at once need"
    console.say(
        f"an agent of many needs {decimal(round(per_agent))}; {together} {decimal(in_all)} of"
        f" {decimal(free)}{each}"
    )
    console.say(_fitting(fit, plan))
    _say_launches(chunk, name.startswith("gpu"), console)
    return in_all


def _say_launches(chunk: Any, on_gpu: bool, console: Console) -> None:
    """Say what an update is made of: a GPU's kernels, or a TPU's operations, and its loops."""
    number, loops = program.launches(chunk.as_text())
    does, unit = ("launches", "kernels") if on_gpu else ("is", "operations")
    temporary = decimal(chunk.memory_analysis().temp_size_in_bytes)
    console.say(f"an update {does} {number:,} {unit} and holds {temporary} of temporaries")
    for loop in loops[1:]:  # the first is over updates
        console.say(f"  {_times(loop)}: {loop.kernels:,} {unit}")


def _fitting(fit: int, plan: Plan) -> str:
    remedy = "they fit" if fit >= plan.lanes else f"give --group-size {max(fit, 1)}"
    return f"about {fit:,} agents fit at once; {remedy}"


def _times(loop: program.Loop) -> str:
    if loop.trips is None:
        return "a loop of an unknown number of trips"
    return f"{loop.entered * loop.trips:,} trips"
