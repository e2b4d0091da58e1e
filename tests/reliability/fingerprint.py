"""What a run left behind, as far as it must be the same however often it was interrupted."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from ppo_jax.run.storage import folder
from tests.helpers.events import read_events

_TIMES = ("compile_seconds", "train_seconds", "steps_per_second")
_TABLES = (
    *(folder.METRICS, folder.STATISTICS, folder.EVALUATIONS),
    *(folder.EVOLUTION, folder.SWEEP, folder.PARAMETERS),
)


def fingerprint(path: Path) -> dict[str, Any]:
    """The final state's hash, and those of the tables, the parameters, the events, the summary."""
    summary = json.loads((path / folder.SUMMARY).read_text())
    events = sorted(read_events(path).items())
    prints = {"state": summary["state_sha256"], "events": _hash(repr(events).encode())}
    for name in _TABLES:
        if (path / name).exists():
            prints[name] = _hash((path / name).read_bytes())
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


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
