"""Reads what XLA made of a program: its kernels, loops and CUDA graphs, from the compiler's text.

Needs only the standard library: other libraries' programs are read by it in interpreters of theirs.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Not kernels: they move no data.
_FREE = (
    *("tuple", "get-tuple-element", "parameter", "constant", "bitcast", "after-all"),
    *("add-dependency", "partition-id", "replica-id", "opt-barrier"),
)
_GRAPH = "CommandBuffer"
_HOLDING = (_GRAPH, "Sequential", "Conditional")  # the others' inner thunks are parts of them


class Loop(NamedTuple):
    """A loop of a compiled program."""

    body: str  # name of the computation
    entered: int  # times, by the loops around it
    trips: int | None  # none: not known when compiling
    kernels: int  # of one trip


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


def launches(program: str) -> tuple[int, list[Loop]]:
    """Kernels that one call of a compiled program launches, and its loops in their order.

    A loop's kernels count once a trip where the number of trips is known when compiling, and once
    where it is not.

    Args:
        program: HLO text, as `jax.stages.Compiled.as_text` has it.
    """
    computations, entry = _computations(program)
    loops: list[Loop] = []

    def count(name: str, entered: int) -> int:
        return sum(_launched(*instruction, entered) for instruction in computations[name])

    def _launched(operation: str, rest: str, entered: int) -> int:
        if operation in _FREE:
            return 0
        if operation == "while":
            condition = computations[_named(rest, "condition")]
            body, trips, place = _named(rest, "body"), _trips(rest, condition), len(loops)
            kernels = count(body, entered * (trips or 1))
            loops.insert(place, Loop(body, entered, trips, kernels))  # before those inside of it
            return (trips or 1) * (kernels + 1)  # and its condition
        if operation in ("call", "conditional"):
            callees = re.findall(r"%([\w.\-]+)", rest.split("), ", 1)[-1])
            return sum(count(callee, entered) for callee in callees if callee in computations)
        return 1

    return count(entry, 1), loops


def parts(thunks: str, loops: Iterable[Loop]) -> list[Part]:
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


def _computations(program: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Every computation's instructions, each an operation and its line from there on, without its
    type; and the name of the one that the program enters."""
    blocks = re.findall(r"^(ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S)
    instruction = r"^\s+(?:ROOT )?%?\S+ = .*? (([\w\-]+)\(.*)$"
    found = {
        name: [(operation, rest) for rest, operation in re.findall(instruction, text, re.M)]
        for _, name, text in blocks
    }
    return found, next(name for is_entry, name, _ in blocks if is_entry)


def _named(rest: str, attribute: str) -> str:
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", rest)
    assert found is not None
    return found[1]


def _trips(rest: str, condition: list[tuple[str, str]]) -> int | None:
    """A loop's trips, as the compiler knows them; a TPU's does not say, and jax counts from 0."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    if known:
        return int(known[1])
    operations = sorted(operation for operation, _ in condition)
    if operations != ["compare", "constant", "get-tuple-element", "parameter"]:
        return None
    text = " ".join(line for _, line in condition)
    limit = re.search(r"constant\((\d+)\)", text)
    return int(limit[1]) if limit and "direction=LT" in text else None
