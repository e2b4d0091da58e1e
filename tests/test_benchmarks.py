"""The benchmarks' workers: their headers, their options, and a process that speaks, dies or hangs.

No peer is installed here: workers are scripts of a few lines that import the protocol alone.
"""

import dataclasses
import json
import subprocess
import sys

import pytest

from benchmarks import workers
from benchmarks.peers import protocol

PEERS = workers.PEERS
NAMES = sorted(path.stem.removesuffix("_worker") for path in PEERS.glob("*_worker.py"))
OURS = {"ours", "torch"}

SPEAKS = """
from protocol import Options, Peer, require, serve

def start(options: Options) -> Peer:
    require(options, most_agents=3)
    print("noise on stdout")
    def turn():
        print("more noise")
        return {"env_steps": options.agents * 512, "seconds": 0.5}
    return Peer(turn, 1.5, {"fake": "1"}, options.recipe)

serve(start)
"""

# `path` is a file: the first process finds it missing, makes it, and hangs.
HANGS_ONCE = """
import json, pathlib, sys, time
flag = pathlib.Path(json.loads(sys.argv[1])["path"])
first = not flag.exists()
flag.touch()
WHERE
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    if first: time.sleep(60)
    print(json.dumps({"env_steps": 1, "seconds": 1}), flush=True)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a worker's script and gives its path."""
    monkeypatch.setenv("PYTHONPATH", str(PEERS))

    def write(text, name="fake_worker.py"):
        script = tmp_path / name
        script.write_text(text)
        return script

    return write


def test_worker_serves_turns_whatever_the_peer_prints(write):
    with workers.Worker("fake", {"agents": 3}, script=write(SPEAKS)) as worker:
        assert worker.ready == {
            "ready": True,
            "compile_seconds": 1.5,
            "versions": {"fake": "1"},
            "note": "standard",
        }
        for _ in range(3):
            result = worker.turn()
            assert (result["env_steps"], result["seconds"]) == (1536, 0.5)
            assert 1e6 < result["peak_memory_bytes"] < 1e9
        process = worker._process
    assert process.wait(0) == 0
    assert worker.hangs == 0


def test_flags_are_the_callers_or_none(write, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--of_this_process")
    script = write(
        "import json, os, sys\n"
        "print(json.dumps({'ready': True, 'flags': os.environ.get('XLA_FLAGS')}), flush=True)\n"
        "sys.stdin.read()\n"
    )
    for flags in (None, "--given"):
        with workers.Worker("fake", flags=flags, script=script) as worker:
            assert worker.ready["flags"] == flags


def test_death_is_told_with_the_last_words(write):
    with pytest.raises(workers.PeerError, match=r"fake ended with status 3; it said: last words"):
        workers.Worker("fake", script=write("import sys\nsys.stderr.write('last words')\nexit(3)"))


def test_death_in_a_turn_is_told_and_can_be_closed(write):
    script = write("print('{\"ready\": true}', flush=True)\ninput()\nraise SystemExit('too bad')")
    with workers.Worker("fake", script=script) as worker:
        with pytest.raises(workers.PeerError, match="fake ended with status 1; it said: too bad"):
            worker.turn()
        with pytest.raises(workers.PeerError, match="fake has ended"):
            worker.turn()


@pytest.mark.parametrize("line", ["hello", "[1]", '{"ready": false}'])
def test_what_is_not_the_protocol_is_refused(write, line):
    script = write(f"print({line!r}, flush=True)\ninput()")
    with pytest.raises(workers.PeerError, match="fake"):
        workers.Worker("fake", script=script)


def test_hung_starts_are_counted_and_given_up(write):
    script = write("import time\ntime.sleep(60)")
    with pytest.raises(workers.PeerError, match=r"fake hung in each of 2 starts of 0\.1 s"):
        workers.Worker("fake", script=script, start_timeout=0.1, tries=2)


@pytest.mark.parametrize("where", ["start", "turn"])
def test_a_hung_process_is_started_again(write, tmp_path, where):
    script = write(HANGS_ONCE.replace("WHERE", "if first: time.sleep(60)" * (where == "start")))
    options = {"path": str(tmp_path / "started")}
    limits = {f"{where}_timeout": 2.0}
    with workers.Worker("fake", options, script=script, **limits) as worker:
        assert worker.turn()["env_steps"] == 1
        assert worker.hangs == 1


def test_a_hung_worker_ends_with_its_parent(write):
    script = write(
        SPEAKS.replace("def turn():", "def turn():\n        import time; time.sleep(60)")
    )
    parent = (
        "import subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, sys.argv[1]], stdin=-1, stdout=-1)\n"
        "worker.stdout.readline()\n"
        "worker.stdin.write(b'turn\\n')\n"
        "worker.stdin.flush()\n"
        "import os; os._exit(0)\n"
    )
    command = [sys.executable, "-c", parent, str(script)]
    # Its stderr is the worker's too: `run` returns when both have ended, long before 60 s.
    subprocess.run(command, capture_output=True, timeout=30, check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object"),
        ('{"agent": 1}', "no option agent; there are recipe, agents"),
        ('{"agents": 0}', "agents is a positive whole number, not 0"),
        ('{"agents": null}', "agents is a positive whole number, not None"),
        ('{"updates": 1.5}', "updates is a positive whole number, not 1.5"),
        ('{"devices": true}', "devices is a positive whole number, not True"),
        ('{"seconds": "5"}', "seconds is a positive number, not '5'"),
        ('{"recipe": 3}', "recipe is a string, not 3"),
        ('{"path": 3}', "path is a string, not 3"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(protocol.OptionError, match=message):
        protocol.parse(options)


def test_options_default_and_survive_json():
    assert protocol.parse("{}") == protocol.Options()
    options = protocol.Options(agents=4, updates=20, path="somewhere", style="tuned")
    assert protocol.parse(json.dumps(dataclasses.asdict(options))) == options


@pytest.mark.parametrize(
    ("options", "limits", "message"),
    [
        ({"recipe": "fast"}, {}, "recipe 'fast': this peer does standard only"),
        ({"agents": 2}, {"most_agents": 1}, "agents 2: this peer trains 1 at once"),
        ({}, {"checkout_of": "a/b"}, "give `path`: a checkout of a/b"),
        ({"path": "/nowhere"}, {"checkout_of": "a/b"}, "path /nowhere: no such folder"),
    ],
)
def test_what_a_peer_cannot_do_is_refused(options, limits, message):
    with pytest.raises(protocol.OptionError, match=message):
        protocol.require(protocol.Options(**options), **limits)


def test_a_refusal_is_one_line(write):
    with pytest.raises(workers.PeerError) as caught:
        workers.Worker("fake", {"agents": 4}, script=write(SPEAKS))
    assert str(caught.value).endswith("it said: agents 4: this peer trains 3 at once")


@pytest.mark.parametrize(
    ("seconds", "updates", "expected"),
    [(8.0, None, 128), (0.001, None, 1), (1e6, None, 976), (8.0, 7, 7)],
)
def test_a_turn_has_the_updates_that_fit(seconds, updates, expected):
    options = protocol.Options(seconds=seconds, updates=updates)
    assert protocol.updates_of_turn(options, lambda trial: trial / 16) == expected


def test_peak_memory_is_read_from_proc():
    assert protocol.peak_memory() > 1e6


def test_every_peer_says_what_it_needs():
    assert {"cleanrl", "stable_baselines3", "sbx", "rejax", "purejaxrl", "rl_tools"} <= set(NAMES)
    for name in NAMES:
        needed = workers.requirements(workers.script_of(name))
        assert all(isinstance(requirement, str) for requirement in needed)
        assert bool(needed) == (name not in OURS | {"rl_tools"}), name


@pytest.mark.parametrize("name", NAMES)
def test_no_script_hides_a_package_that_a_peer_imports(name):
    needed = workers.requirements(workers.script_of(name))
    packages = {requirement.split("=")[0].split("<")[0].replace("-", "_") for requirement in needed}
    scripts = {path.stem for path in PEERS.glob("*.py")}
    assert not scripts & (packages | {"jax", "numpy", "torch", "ppo", "sbx", "wrappers"})


def test_header_of_several_lines(write):
    script = write(
        '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#     "a==1",  # why\n'
        '#\n#     "b<2",\n# ]\n# ///\nimport a\n'
    )
    assert workers.requirements(script) == ["a==1", "b<2"]
    assert workers.requirements(write("import a\n", "bare_worker.py")) == []


def test_two_headers_are_refused(write):
    header = "# /// script\n# dependencies = []\n# ///\n\n"
    with pytest.raises(workers.PeerError, match="more than one"):
        workers.requirements(write(header * 2))


def test_unknown_peer_is_named():
    with pytest.raises(workers.PeerError, match="no peer 'nobody'; there are cleanrl"):
        workers.script_of("nobody")


def test_folder_follows_the_requirements_and_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = workers.environment_folder("fake", ["b", "a"])
    assert first.parent == tmp_path / "ppo_jax" / "benchmarks"
    assert first == workers.environment_folder("fake", ["a", "b"])
    assert first != workers.environment_folder("fake", ["a", "b==1"])


def test_environment_is_made_once(monkeypatch, tmp_path, write):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = write('# /// script\n# dependencies = ["a"]\n# ///\n')
    commands = _fake_commands(monkeypatch)
    python = workers.interpreter("fake", script)
    assert python.startswith(str(tmp_path / "ppo_jax" / "benchmarks" / "fake-"))
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1] == [python, "-m", "pip", "install", "a"]
    assert workers.interpreter("fake", script) == python
    assert len(commands) == 2
    assert workers.interpreter("fake", write("import os\n")) == sys.executable


def test_failed_install_says_what_pip_said_and_leaves_nothing(monkeypatch, tmp_path, write):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = write('# /// script\n# dependencies = ["a"]\n# ///\n')
    _fake_commands(monkeypatch, "WARNING: hm\nERROR: No matching distribution found for a\nhint\n")
    with pytest.raises(workers.PeerError) as caught:
        workers.Worker("fake", script=script)
    said = "fake was not installed; pip said: ERROR: No matching distribution found for a"
    assert str(caught.value) == said
    assert not list((tmp_path / "ppo_jax" / "benchmarks").iterdir())


def _fake_commands(monkeypatch, error=None):
    commands = []

    def run(command, **_):
        commands.append(command)
        if "venv" in command:
            workers.Path(command[-1]).mkdir(parents=True)
        failed = error is not None and "pip" in command
        return subprocess.CompletedProcess(command, int(failed), "", error if failed else "")

    monkeypatch.setattr(workers.subprocess, "run", run)
    return commands
