"""How far the files that only grow had got at a checkpoint, and what was in them."""

import hashlib
import os
from pathlib import Path
from typing import Any

from ppo_jax.run import folder

Noted = dict[str, dict[str, Any]]  # by file: its bytes, and their sha256


class Ledger:
    """Notes the lengths and hashes of a run's files; reads only what came since the last time."""

    def __init__(self, path: Path):
        self._path = path
        self._hashes: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}

    def note(self) -> Noted:
        """The files as they are now; from here on they are on the disk, not only on their way."""
        noted = {}
        for path in _growing(self._path):
            name = path.name
            known = self._hashes.setdefault(name, hashlib.sha256())
            with folder.file_system(path), open(path, "rb") as file:
                file.seek(self._lengths.get(name, 0))
                while block := file.read(1 << 20):
                    known.update(block)
                self._lengths[name] = file.tell()
                os.fsync(file.fileno())
            noted[name] = {"bytes": self._lengths[name], "sha256": known.hexdigest()}
        return noted


def check(path: Path, noted: Noted) -> None:
    """Raise ValueError where a file does not begin with what was noted."""
    for name, then in noted.items():
        known, left = hashlib.sha256(), then["bytes"]
        try:
            with open(path / name, "rb") as file:
                while left and (block := file.read(min(left, 1 << 20))):
                    known.update(block)
                    left -= len(block)
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from error
        if left:
            raise ValueError(f"{name} is shorter than it was")
        if known.hexdigest() != then["sha256"]:
            raise ValueError(f"{name} is not what it was")


def cut(path: Path, noted: Noted) -> None:
    """Take away what was written after the note: the ends of files, and newer files."""
    for file in _growing(path):
        with folder.file_system(file):
            if file.name in noted:
                os.truncate(file, noted[file.name]["bytes"])
            else:
                file.unlink()


def _growing(path: Path) -> list[Path]:
    return sorted(file for name in folder.GROWING for file in path.glob(name))
