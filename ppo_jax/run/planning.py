"""Says what a run would need, before it is started: measured, or compiled for another device."""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.filesize import decimal

from ppo_jax import population
from ppo_jax.run import absent, compiled, devices, pipeline, program, sinks
from ppo_jax.run.agents import Lanes
from ppo_jax.run.console import Console
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.pipeline import Plan
from ppo_jax.run.training import Batch

_PEAK = "VmHWM"  # the most memory that this process has held
_UPDATES = 3  # of the calibration, after one that is not counted
_REST = 60_000_000  # bytes of what is not compiled here, the ranking's programs and the report


_FEW_AND_MORE = (64, 512)  # agents a device, whose difference tells what one of them needs


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


class AbsentNeeds(NamedTuple):
    """What a run needs on a device that is not here, by the analysis of its compiled programs."""

    agents: int
    group_size: int  # agents at once
    bytes_per_agent: float
    bytes_in_all: int  # on each device, with `group_size` agents
    bytes_free: int  # on each device
    agents_that_fit: int  # at once, on all devices
    compile_seconds: float
    temporary_bytes: int  # of an update
    kernels: int  # of an update; a TPU's operations
    loops: list[program.Loop]
    parts: list[program.Part]  # none for a TPU


def show(experiment: Experiment, console: Console) -> Needs | AbsentNeeds:
    """Compile the experiment's programs, run a few updates, say what the whole run would need. For
    a device that is not here they are compiled and read.

    Nothing is written. Raises CommandError as a run would.
    """
    plan = pipeline.make_plan(experiment)
    pipeline.print_header(plan, console)
    if absent.is_absent(experiment.machine.device):
        with plan.device_errors():
            read = _compile_only(plan, console)
        _say_compiled(read, plan, console)
        return read
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


def _compile_only(plan: Plan, console: Console) -> AbsentNeeds:
    name, count, lanes = plan.experiment.machine.device, len(plan.chosen), plan.lanes
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def build(lanes: int) -> compiled.Programs:
            ids = np.resize(np.arange(len(plan.table)), lanes)
            options = absent.compiler_options(name, str(_dump(folder, lanes)))
            with console.waiting(f"compiling for {lanes:,} agents on {name}"):
                return compiled.build(
                    plan.table.configure(ids),
                    lanes,
                    plan.chosen,
                    {**population.COMPILER_OPTIONS, **options},
                )

        started, free = time.perf_counter(), absent.memory(name)
        few, more = (build(size * count).memory() for size in _FEW_AND_MORE)
        per_agent = (more - few) / (_FEW_AND_MORE[1] - _FEW_AND_MORE[0])
        fixed = few - _FEW_AND_MORE[0] * per_agent
        fit = max(int((free - fixed) / per_agent), 0) * count
        shown = lanes if lanes <= fit else _FEW_AND_MORE[0] * count  # what may not fit is not tried
        chunk: Any = build(shown).chunk
        seconds = time.perf_counter() - started
        kernels, loops = program.launches(chunk.as_text())
        parts = []
        if absent.is_gpu(name):
            parts = program.parts(program.dumped(_dump(folder, shown), "jit_chunk"), loops)
        in_all = build(lanes).memory() if lanes <= fit else round(fixed + lanes / count * per_agent)
    return AbsentNeeds(
        agents=len(plan.table),
        group_size=lanes,
        bytes_per_agent=per_agent,
        bytes_in_all=in_all,
        bytes_free=free,
        agents_that_fit=fit,
        compile_seconds=seconds,
        temporary_bytes=chunk.memory_analysis().temp_size_in_bytes,
        kernels=kernels,
        loops=loops,
        parts=parts,
    )


def _dump(folder: str, lanes: int) -> Path:
    return Path(folder, str(lanes))


def _say_compiled(read: AbsentNeeds, plan: Plan, console: Console) -> None:
    count, fit, size = len(plan.chosen), read.agents_that_fit, read.group_size
    each = "" if count == 1 else f" on each of {count} devices"
    console.say(f"compiled in {read.compile_seconds:.0f} s, not run: nothing here says how fast")
    together = "1 agent needs" if size == 1 else f"{size:,} agents at once need"
    console.say(
        f"an agent of many needs {decimal(round(read.bytes_per_agent))}; {together}"
        f" {decimal(read.bytes_in_all)} of {decimal(read.bytes_free)}{each}"
    )
    remedy = "they fit" if fit >= size else f"give --group-size {max(fit, 1)}"
    console.say(f"about {fit:,} agents fit at once; {remedy}")
    what = "launches" if read.parts else "is"
    unit = "kernels" if read.parts else "operations"
    console.say(
        f"an update {what} {read.kernels:,} {unit} and holds {decimal(read.temporary_bytes)} of"
        " temporaries"
    )
    for index, loop in enumerate(read.loops):
        trips = "each update" if index == 0 else _times(loop)
        made = _made(read.parts[index + 1]) if read.parts else f"{loop.kernels:,} {unit}"
        console.say(f"  {trips}: {made}")


def _times(loop: program.Loop) -> str:
    if loop.trips is None:
        return "a loop of an unknown number of trips"
    return f"{loop.entered * loop.trips:,} trips"


def _made(part: program.Part) -> str:
    """What a GPU is given in a trip of a loop, without the loops inside of it."""
    if part.whole:
        return f"{part.in_graphs:,} kernels, the loop with all of its trips in a CUDA graph"
    several = "a CUDA graph" if part.graphs == 1 else f"{part.graphs:,} CUDA graphs"
    graphs = [f"{part.in_graphs:,} kernels in {several}"] if part.in_graphs else []
    outside = [f"{number:,} {kind}" for kind, number in sorted(part.outside.items())]
    return ", ".join([*graphs, *outside]) or "nothing"
