# mypy: disable-error-code="import-not-found"
"""Compiles a training for a device that is not here, and reads one update of it: for every library
by the same functions, in its own interpreter."""

import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jax

sys.path.append(str(Path(__file__).parents[2]))  # of ppo_jax only what needs nothing but jax

from ppo_jax.run import absent, program
from ppo_jax.run.program import Loop

# Of the training that is compiled, whose loop over updates is read (Ajax makes one more).
UPDATES = 3
# More CUDA graphs than XLA makes by itself: loops whole, and of single kernels.
GRAPHS: dict[str, Any] = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,"
    "WHILE,CONDITIONAL",
    "xla_gpu_graph_min_graph_size": 1,
}
_GRAPH = "CommandBuffer"
_HOLDING = (_GRAPH, "Sequential", "Conditional")  # the others' inner thunks are parts of them


@dataclasses.dataclass
class Part:
    """How a GPU's runtime launches a program outside of its loops, or one trip of a loop.

    What XLA launches are its thunks, kernels and copies mostly; a command buffer is a CUDA graph of
    several.
    """

    times: int  # that it is launched in a call
    whole: bool  # whether the loop is inside of one graph, with all of its trips
    graphs: int = 0
    in_graphs: int = 0  # thunks inside of graphs
    outside: dict[str, int] = dataclasses.field(default_factory=dict)  # others, which cut graphs

    def add(self, kind: str, in_graph: bool) -> None:
        """Count a thunk."""
        if kind == _GRAPH:
            self.graphs += 1
        elif in_graph:
            self.in_graphs += 1
        elif kind not in _HOLDING:
            self.outside[kind] = self.outside.get(kind, 0) + 1


def read(
    training: Callable[..., Any],
    shapes: Sequence[Any],
    device: str,
    graphs: bool = False,
    trips: int = 1,
) -> dict[str, Any]:
    """One update of a training of `UPDATES` updates, compiled for an absent device.

    `trips` is taken for a loop whose trips are not known when compiling.
    """
    started = time.perf_counter()
    options = GRAPHS if graphs and device.startswith("gpu") else {}
    with tempfile.TemporaryDirectory() as dump:
        lowered = jax.jit(_named(training)).lower(*shapes)
        compiled: Any = lowered.compile(options | compiler_options(device, dump))
        seconds, text = time.perf_counter() - started, compiled.as_text()
        _, found = program.launches(text)
        loops = [loop._replace(trips=loop.trips or trips) for loop in found]
        first, outer = _loop_over_updates(loops)
        parts = []
        if device.startswith("gpu"):
            parts = parts_of(dumped(Path(dump), "jit_training"), loops)
    inside, updates = loops[first + 1 :], outer.trips or 1
    # A loop whose trips were not known counted once.
    guessed = [
        loop for loop, known in zip(inside, found[first + 1 :], strict=True) if loop != known
    ]
    counted: list[Any] = [
        dataclasses.replace(part, times=part.times // updates) for part in parts[first + 1 :]
    ]
    return {
        "kernels": outer.kernels + sum((trips - 1) * (loop.kernels + 1) for loop in guessed),
        "loops": [
            {"entered": loop.entered // updates, "trips": loop.trips, "kernels": loop.kernels}
            for loop in inside
        ],
        "parts": [dataclasses.asdict(part) for part in counted],
        "graphs": sum(part.graphs for part in counted),
        "launches_outside": sum(
            part.times * (part.graphs + sum(part.outside.values())) for part in counted
        ),
        "launches_in_graphs": sum(part.times * part.in_graphs for part in counted),
        **_costs(text, outer, inside),
        "not_analyzed": sum(_custom_calls(text, loop.body) for loop in (outer, *inside)),
        "temporary_megabytes": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "compile_seconds": round(seconds, 1),
    }


def compiler_options(device: str, dump: str) -> dict[str, Any]:
    """What to compile with for an absent device; a GPU's thunks go to the folder."""
    own = absent.compiler_options(device)
    return {**own, "xla_dump_to": dump} if device.startswith("gpu") else own


def parts_of(thunks: str, loops: Iterable[Loop]) -> list[Part]:
    """How a program is launched outside of its loops, and in a trip of each loop, in their order.

    Args:
        thunks: the thunks of one program, as XLA dumps them (`dumped`).
        loops: the same program's, of `launches`.
    """
    times = iter([loop.entered * (loop.trips or 1) for loop in loops])
    found = [Part(1, False)]
    around: list[tuple[str, Part | None]] = []  # kind, and where what is inside of it counts
    for line in thunks.splitlines():
        label = re.match(r"( *)(condition|body):", line)
        if label:
            place = len(around) - 1 if label[2] == "condition" else len(label[1]) // 4
            kind, _ = around[place]
            # A loop of a known number of trips evaluates no condition, and the others' is little.
            around[place:] = [(kind, None if label[2] == "condition" else found[-1])]
            continue
        thunk = re.match(r"( *)\d+: k([A-Z]\w+)", line)
        if thunk is None:
            continue
        del around[len(thunk[1]) // 4 :]
        kind, here = thunk[2], around[-1][1] if around else found[0]
        in_graph = any(outer == _GRAPH for outer, _ in around)
        if kind == "While":
            found.append(Part(next(times), in_graph))
            around.append((kind, found[-1]))
            continue
        if here is not None:
            here.add(kind, in_graph)
        around.append((kind, here if kind in _HOLDING else None))
    return found


def dumped(folder: Path, module: str) -> str:
    """The thunks of a program in the folder that the option `xla_dump_to` named: after XLA's last
    passes, which make graphs, if these changed anything."""
    for name in ("thunk_sequence_after_thunk_passes", "thunk_sequence"):
        for path in folder.glob(f"*.{module}.{name}.txt"):
            return path.read_text()
    raise FileNotFoundError(f"{folder}: XLA dumped no thunks of {module}")


def _named(training: Callable[..., Any]) -> Callable[..., Any]:
    def named(*arguments: Any) -> Any:
        return training(*arguments)

    named.__name__ = "training"  # of the files that XLA writes
    return named


def _loop_over_updates(loops: list[Loop]) -> tuple[int, Loop]:
    """Where the training's own loop is among all: of those that are entered once the largest."""
    first = max(
        (index for index, loop in enumerate(loops) if loop.entered == 1),
        key=lambda index: loops[index].kernels,
    )
    if (loops[first].trips or 0) < UPDATES:
        raise ValueError(f"the compiled training has no loop over updates, but {loops}")
    return first, loops[first]


def _custom_calls(text: str, body: str) -> int:
    """Kernels of libraries, and hand-written ones: XLA's analysis knows nothing of them."""
    found = re.search(rf"^%{re.escape(body)} .*?^}}", text, re.M | re.S)
    return found[0].count(" custom-call(") if found else 0


def _costs(text: str, outer: Loop, inside: list[Loop]) -> dict[str, Any]:
    """XLA's own analysis of an update's operations and bytes. It takes a loop's body once, so that
    of each body is added for the trips that are missing."""
    try:
        hlo = import_module("jaxlib._hlo")  # no public way leads to a part of a program
        analyze = import_module("jaxlib._jax").hlo_module_cost_analysis

        client = jax.devices("cpu")[0].client

        def cost(body: str) -> dict[str, float]:
            alone = re.sub(r"^HloModule.*$", "HloModule part", text, count=1, flags=re.M)
            alone = re.sub(r"^ENTRY ", "", alone, flags=re.M)
            alone = re.sub(rf"^%{re.escape(body)} ", rf"ENTRY %{body} ", alone, flags=re.M)
            return analyze(client, hlo.hlo_module_from_text(alone))

        costs = {"operations": 0.0, "bytes": 0.0}
        weights = [(outer.body, 1.0)]
        for loop in inside:
            weights.append((loop.body, loop.entered / (outer.trips or 1) * ((loop.trips or 1) - 1)))
        for body, weight in weights:
            analyzed = cost(body)
            costs["operations"] += weight * analyzed.get("flops", 0.0)
            costs["bytes"] += weight * analyzed.get("bytes accessed", 0.0)
    except (ImportError, AttributeError, RuntimeError) as error:
        return {"operations": None, "bytes": None, "no_costs": str(error).splitlines()[0][:200]}
    return costs
