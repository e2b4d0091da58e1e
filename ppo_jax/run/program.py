"""Reads what XLA made of a program, its kernels and loops, from the compiler's text.

Needs only the standard library: other libraries' programs are read by it in interpreters of theirs.
"""

import re
from typing import NamedTuple

# Not kernels: they move no data.
_FREE = (
    *("tuple", "get-tuple-element", "parameter", "constant", "bitcast", "after-all"),
    *("add-dependency", "partition-id", "replica-id", "opt-barrier"),
)


class Loop(NamedTuple):
    """A loop of a compiled program."""

    body: str  # name of the computation
    entered: int  # times, by the loops around it
    trips: int | None  # none: not known when compiling
    kernels: int  # of one trip, with those of the loops inside of it


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
