"""What a run left behind, as far as it must be the same however often it was interrupted."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppo_jax.run import folder

Event = tuple[str, int, float]  # tag, step, value
_TIMES = ("compile_seconds", "train_seconds", "steps_per_second")


def fingerprint(path: Path) -> dict[str, Any]:
    """The final state's hash, and those of the rows, the parameters, the events, the summary."""
    summary = json.loads((path / folder.SUMMARY).read_text())
    prints = {"state": summary["state_sha256"], "events": _hash(repr(events(path)).encode())}
    for name in (folder.METRICS, folder.STATISTICS, folder.EVOLUTION, folder.SWEEP):
        if (path / name).exists():
            prints[name] = _hash((path / name).read_bytes())
    prints[folder.PARAMETERS] = _hash((path / folder.PARAMETERS).read_bytes())
    for name in _TIMES:
        del summary[name]
    prints[folder.SUMMARY] = _hash(json.dumps(summary, sort_keys=True).encode())
    return prints


def rows(path: Path) -> int:
    """Updates in statistics.csv so far."""
    if not (path / folder.STATISTICS).exists():
        return 0
    with open(path / folder.STATISTICS, newline="") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)


def events(path: Path) -> list[Event]:
    """The TensorBoard scalars of a folder, in the order in which a reader meets them."""
    return [event for file in sorted(path.glob(folder.EVENTS)) for event in _events(file)]


def _events(path: Path) -> Iterator[Event]:
    from tensorboardX.proto.event_pb2 import Event as Record

    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        record = Record.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in record.summary.value:
            yield value.tag, record.step, value.simple_value


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
