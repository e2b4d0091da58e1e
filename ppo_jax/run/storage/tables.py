"""CSV tables that grow with a run, and how far they had grown at a checkpoint."""

import csv
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ppo_jax.run.agents import AgentTable
from ppo_jax.run.storage import folder

_TAIL = 1 << 16  # bytes before an offset that a checkpoint remembers by their hash
_READ = 1 << 22  # bytes of a table that are read at once


class Table:
    """A CSV file that rows are appended to; its header is written where the file is new."""

    def __init__(self, path: Path, header: Iterable[str]):
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file)
        if self._file.tell() == 0:
            self._rows.writerow(header)
            self._file.flush()  # a checkpoint before the first row records the header
        self.flush, self.close = self._file.flush, self._file.close

    def add(self, *cells: Any) -> None:
        """Append a row; a NaN is an empty cell."""
        self._rows.writerow(["" if cell != cell else cell for cell in cells])


def record_offsets(path: Path) -> dict[str, dict[str, Any]]:
    """Length and hash of the tail of each growing file; from here on they are on the disk."""
    offsets = {}
    for file in _growing(path):
        with open(file, "rb") as content:
            length = os.fstat(content.fileno()).st_size
            offsets[file.name] = {"bytes": length, "tail_sha256": _tail(content, length)}
            os.fsync(content.fileno())
    return offsets


def check_offsets(path: Path, offsets: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError where a file does not reach to its offset, or differs before it."""
    for name, recorded in offsets.items():
        try:
            with open(path / name, "rb") as content:
                if os.fstat(content.fileno()).st_size < recorded["bytes"]:
                    raise ValueError(f"{name} is shorter than it was")
                if _tail(content, recorded["bytes"]) != recorded["tail_sha256"]:
                    raise ValueError(f"{name} is not what it was")
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from error


def truncate(path: Path, offsets: dict[str, dict[str, Any]]) -> None:
    """Remove what was written after the offsets: the ends of files, and newer files."""
    for file in _growing(path):
        if file.name in offsets:
            os.truncate(file, offsets[file.name]["bytes"])
        else:
            file.unlink()


def read_metrics(path: Path, table: AgentTable, growing: bool = False) -> dict[str, np.ndarray]:
    """Columns of metrics.csv, evaluations.csv or evolution.csv, [rows, agents of the table] each;
    NaN where an agent stopped before others, or never began.

    Empty where there is no such file. Of one that is still `growing`, half a last line is left out.
    Raises ValueError for a row of no agent of the table.
    """
    if not path.exists():
        return {}
    header, cells = _read(path, growing)
    columns = dict(zip(header, cells.T, strict=True))
    agent = columns.get("agent")
    if agent is None:
        agents = table.experiment.agents
        agent = columns.get("setting", 0) * agents.num_seeds + columns["seed"] - agents.seed
    if not ((agent >= 0) & (agent < len(table)) & (agent == agent.round())).all():
        raise ValueError(f"{path.name} has rows of agents that the run does not have")
    updates, row = np.unique(columns["update"], return_inverse=True)
    tables = {}
    for name in header:
        tables[name] = np.full((len(updates), len(table)), np.nan)
        tables[name][row, agent.astype(int)] = columns[name]
    return tables


def _read(path: Path, growing: bool) -> tuple[list[str], np.ndarray]:
    """The header and the numbers, [lines, columns], part by part: ten thousand agents write more
    than should be in memory as text."""
    with open(path) as file:
        header = file.readline().strip().split(",")
        parts = [np.zeros((0, len(header)))]
        while lines := file.readlines(_READ):
            if growing and not lines[-1].endswith("\n"):
                lines.pop()
            text = re.sub(r",(?=[,\n]|$)", ",nan", "".join(lines))
            if text:
                parts.append(np.loadtxt(text.splitlines(), delimiter=",", ndmin=2))
    return header, np.concatenate(parts)


def _growing(path: Path) -> list[Path]:
    return sorted(file for name in folder.GROWING for file in path.glob(name))


def _tail(content: Any, length: int) -> str:
    content.seek(max(0, length - _TAIL))
    return hashlib.sha256(content.read(min(length, _TAIL))).hexdigest()
