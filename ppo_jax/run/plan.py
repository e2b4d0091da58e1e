"""--plan: what a run would need, before it is started."""

import os
import resource
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from ppo_jax.run import devices, folder, log, loop, programs
from ppo_jax.run.job import Job
from ppo_jax.run.roster import Roster
from ppo_jax.run.screen import Screen

_UPDATES = 3  # of the calibration, after one that is not counted
_REST = 60_000_000  # bytes of what is not compiled here, the report's programs and its figure
_CURVES = 24  # bytes on the host for an update of an agent's curve: return and steps, while joined


class Plan(NamedTuple):
    """What a run needs; bytes are above what a process holds once everything is imported."""

    agents: int
    group_size: int  # agents at once
    bytes_per_agent: float
    compiling_bytes: int  # which the compiler and small programs take; less where they are kept
    bytes_in_all: int
    bytes_free: int
    agents_that_fit: int  # at once
    compile_seconds: float
    train_seconds: float  # expected


def show(job: Job, screen: Screen) -> Plan:
    """Compile the job's programs, run a few updates, say what the whole run would need.

    Nothing is written. Raises Failure as a run would.
    """
    chosen = devices.select(job.device)
    agents = loop.prepare(job)
    loop.introduce(job, agents, chosen, screen)
    with devices.refusals(loop.asked(job, agents)):
        plan = _plan(job, agents, chosen, screen)
    fits = plan.agents_that_fit >= plan.group_size
    remedy = "they fit" if fits else f"give --group-size {max(plan.agents_that_fit, 1)}"
    together = "all at once" if plan.group_size >= plan.agents else f"{plan.group_size:,} at once"
    for line in (
        f"an agent needs {folder.size(plan.bytes_per_agent)}; {plan.agents:,} agents, {together},"
        f" with {folder.size(plan.compiling_bytes)} of the compiler: "
        f"{folder.size(plan.bytes_in_all)}",
        f"free {folder.size(plan.bytes_free)}: about {plan.agents_that_fit:,} agents fit at once;"
        f" {remedy}",
        f"expected: {plan.compile_seconds:.0f} s of compiling, {plan.train_seconds:,.0f} s of"
        " training, then the evaluation",
    ):
        screen.say(line)
    return plan


def _plan(job: Job, agents: Roster, chosen: list[jax.Device], screen: Screen) -> Plan:
    log.import_tensorboard()  # a run would, and imports are not counted
    before, size = _peak(), loop.lanes(job, agents, chosen)
    free = _free(chosen)
    with screen.waiting(f"compiling {job.recipe} for {size:,} agents at once"):
        compiled, compile_seconds = _compile(job, agents, size, chosen)
    compiling = max(0, _peak() - before) + _REST
    per_agent = compiled.memory() * len(chosen) / size
    updates = job.config.num_updates or 0
    on_host = _CURVES * updates * len(agents.seeds) if job.curves else 0
    fit = int((free - compiling - on_host) / per_agent)
    if fit < size:  # what does not fit cannot be timed: time what does
        size = max(len(chosen), fit // 2 // len(chosen) * len(chosen))
        compiled, _ = _compile(job, agents, size, chosen)
    each = _seconds_of_update(job, agents, size, compiled) / size
    return Plan(
        agents=len(agents.seeds),
        group_size=loop.lanes(job, agents, chosen),
        bytes_per_agent=per_agent,
        compiling_bytes=compiling,
        bytes_in_all=round(compiling + on_host + per_agent * loop.lanes(job, agents, chosen)),
        bytes_free=free,
        agents_that_fit=max(fit, 0),
        compile_seconds=compile_seconds,
        train_seconds=each * len(agents.seeds) * updates,
    )


def _compile(
    job: Job, agents: Roster, size: int, chosen: list[jax.Device]
) -> tuple[programs.Programs, float]:
    started = time.perf_counter()
    config = agents.configure(job.config, next(agents.groups(size))[0])
    return programs.compile_programs(config, size, chosen), time.perf_counter() - started


def _seconds_of_update(job: Job, agents: Roster, size: int, compiled: programs.Programs) -> float:
    who, _ = next(agents.groups(size))
    config = agents.configure(job.config, who)
    states = compiled.init(agents.seeds[who], config)
    states, rows = compiled.chunk(states, config, 1)
    jax.block_until_ready(rows)
    updates = min(_UPDATES, programs.capacity(job.config))
    started = time.perf_counter()
    states, rows = compiled.chunk(states, config, updates)
    jax.block_until_ready(compiled.summarize(rows, np.ones(size, bool)))
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
