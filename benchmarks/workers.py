"""The opponents as live processes: a virtual environment each, one protocol, turns on demand.

`with Worker("rejax", {"agents": 4}) as worker: worker.turn()`; a worker is a script
`benchmarks/peers/NAME_worker.py`, which says in its first lines what it needs (PEP 723).
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.protocol import cache_folder

PEERS = Path(__file__).with_name("peers")
HEADER = re.compile(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", re.MULTILINE)


class PeerError(Exception):
    """A peer that cannot be installed, or does not run: one line, and the suite goes on."""


class _HungError(PeerError):
    """A peer that did not answer in time."""


def script_of(name: str) -> Path:
    """A peer's worker."""
    script = PEERS / f"{name}_worker.py"
    if not script.is_file():
        known = sorted(path.stem.removesuffix("_worker") for path in PEERS.glob("*_worker.py"))
        raise PeerError(f"no peer {name!r}; there are {', '.join(known)}")
    return script


def requirements(script: Path) -> list[str]:
    """What a script's PEP 723 header depends on; nothing where it has no header."""
    return _header(script).get("dependencies", [])


def _header(script: Path) -> dict[str, Any]:
    found = HEADER.findall(script.read_text())
    if not found:
        return {}
    if len(found) > 1:
        raise PeerError(f"{script.name}: more than one `# /// script` header")
    lines = [line.removeprefix("#").removeprefix(" ") for line in found[0].splitlines()]
    return tomllib.loads("\n".join(lines))


def interpreter(name: str, script: Path, packages: Sequence[str] = ()) -> str:
    """A Python that has what the script needs, and more packages: this one, or its own, made on
    first use."""
    needed = [*requirements(script), *packages]
    if not needed:
        return sys.executable
    version, base = accepted_python(name, script)
    folder = environment_folder(name, needed, version)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _install(name, folder, base, [str(python), "-m", "pip", "install", *needed])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        complete.write_text("\n".join(needed) + "\n")
    return str(python)


def accepted_python(name: str, script: Path) -> tuple[str, str]:
    """The version and path of a Python that the script's header accepts: this one, or one of PATH
    where this one is too old."""
    here = sys.version_info.minor
    least = int(_header(script).get("requires-python", f">=3.{here}").removeprefix(">=3."))
    if here >= least:
        return f"3.{here}", sys.executable
    versions = [f"3.{minor}" for minor in (least, least + 1)]
    for version in versions:
        found = shutil.which(f"python{version}")
        # pyenv puts a python3.12 on PATH that only says that it is not switched on.
        if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
            return version, found
    raise PeerError(
        f"{name} needs Python {versions[0]} or newer, and this is 3.{here}: put"
        f" {' or '.join(f'python{version}' for version in versions)} on PATH"
    )


def environment_folder(name: str, needed: list[str], version: str) -> Path:
    """Where a peer's virtual environment is; other requirements or another Python have another."""
    content = "\n".join([version, *sorted(needed)])
    return cache_folder() / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _install(name: str, folder: Path, base: str, command: list[str]) -> None:
    print(f"{name}: installing into {folder}", file=sys.stderr)
    for part in ([base, "-m", "venv", str(folder)], command):
        result = subprocess.run(part, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["nothing"]
            said = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
            doer = "pip" if "pip" in part else "python -m venv"
            raise PeerError(f"{name} was not installed; {doer} said: {said}")


class Worker:
    """A peer's live process; a hung one is ended and started again, `hangs` counts them."""

    def __init__(
        self,
        name: str,
        options: dict[str, Any] | None = None,
        flags: str | None = None,
        *,
        script: Path | None = None,
        start_timeout: float = 120.0,
        turn_timeout: float = 300.0,
        tries: int = 3,
        packages: Sequence[str] = (),
    ):
        """Install the peer if need be, start it, and wait until it is warm.

        `flags` are its XLA_FLAGS; None: none, the peer as shipped. `packages` are what it needs
        beside what its script says.
        """
        self.name, self.options, self.flags = name, options or {}, flags
        self.script = script or script_of(name)
        self.start_timeout, self.turn_timeout, self.tries = start_timeout, turn_timeout, tries
        self.hangs = 0
        self.ready: dict[str, Any] = {}
        self._python = interpreter(name, self.script, packages)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def turn(self) -> dict[str, Any]:
        """One turn's result: at least `env_steps`, `seconds` and `peak_memory_bytes`."""
        if self._errors.closed:
            raise PeerError(f"{self.name} has ended")
        for attempt in range(self.tries):
            if attempt:
                self._start()
            with contextlib.suppress(_HungError):
                return self._ask(self.turn_timeout)
        raise PeerError(f"{self.name} hung in each of {self.tries} turns of {self.turn_timeout} s")

    def close(self) -> None:
        """End the process: by the end of its stdin, or by force if it does not mind that."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe("stdin").close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._kill()
        self._pipe("stdout").close()
        self._errors.close()

    def _start(self) -> None:
        for _ in range(self.tries):
            self._launch()
            try:
                self.ready = self._answer(self.start_timeout)
            except _HungError:
                continue
            if self.ready.get("ready") is not True:
                self.close()
                raise PeerError(f"{self.name} is not ready but says {json.dumps(self.ready)}")
            return
        raise PeerError(
            f"{self.name} hung in each of {self.tries} starts of {self.start_timeout} s"
        )

    def _launch(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        if self.flags is not None:
            environment["XLA_FLAGS"] = self.flags
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [self._python, str(self.script), json.dumps(self.options)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # its children end with it
        )

    def _ask(self, timeout: float) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # it has died: its answer says so
            self._pipe("stdin").write("turn\n")
            self._pipe("stdin").flush()
        return self._answer(timeout)

    def _answer(self, timeout: float) -> dict[str, Any]:
        """The next line; a process that does not say one in time is ended, as is a broken one."""
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            self._kill()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        try:
            line = self._pipe("stdout").readline()
        except BaseException:
            self._kill()
            raise
        finally:
            timer.cancel()
        if hung.is_set():
            self.hangs += 1
            self._end()
            raise _HungError(f"{self.name} did not answer in {timeout} s")
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise PeerError(self._obituary(line))
        return answer

    def _obituary(self, line: str) -> str:
        if line:
            self._kill()
        status = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read()[-2000:].strip()
        self._end()
        if line:
            return f"{self.name} spoiled the protocol with {line.strip()!r}; it said: {tail}"
        return f"{self.name} ended with status {status}; it said: {tail or 'nothing'}"

    def _end(self) -> None:
        self._process.wait()
        for name in ("stdin", "stdout"):
            with contextlib.suppress(OSError):
                self._pipe(name).close()
        self._errors.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _pipe(self, name: str) -> Any:
        return getattr(self._process, name)
