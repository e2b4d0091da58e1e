"""The benchmarks, run as their users do: each a command of its own, with sizes that take seconds.

Peers speak to the benchmarks by lines of JSON (`benchmarks/peers`); none of them is installed here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = BENCHMARKS / "peers"
WORKERS = sorted(path.stem for path in PEERS.glob("*_worker.py"))
COMMANDS = sorted(
    path.stem
    for path in BENCHMARKS.glob("[!_]*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


def run(*command, code=0, timeout=300, **options):
    """A finished process of Python, which exits with that code."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=BENCHMARKS.parent,
        **options,
    )
    assert result.returncode == code, result.stderr
    return result


def measured(name, out, *flags):
    """What a benchmark of that name writes."""
    run("-m", f"benchmarks.{name}", *flags, "--out", out)
    assert (out / f"{name}.png").stat().st_size > 0
    content = json.loads((out / f"{name}.json").read_text())
    assert content["setting"]["versions"]["jax"]
    return content


# Commands


def test_an_unknown_part_is_refused_with_those_that_there_are():
    result = run("-m", "benchmarks", "throughputs", code=2)
    assert result.stdout.startswith("no part throughputs; there are throughput, profile")


def curves_around(level, seeds, generator):
    """Curves whose first 10 points are None, where no episode had ended."""
    levels = generator.normal(level, 8.0, seeds)
    return {str(seed): [None] * 10 + [value] * 90 for seed, value in enumerate(levels)}


@pytest.mark.parametrize(
    ("theirs", "equivalent"),
    [(440.0, True), pytest.param(400.0, False, marks=pytest.mark.slow)],
)
def test_two_learn_alike_where_both_one_sided_tests_say_so(tmp_path, theirs, equivalent):
    generator = np.random.default_rng(0)
    curves = {
        "standard": curves_around(440.0, 40, generator),
        "standard, time_limit=terminate": curves_around(440.0, 40, generator),
        "CleanRL": curves_around(theirs, 20, generator),
    }
    (tmp_path / "equivalence.json").write_text(json.dumps({"curves": curves}))
    result = run("-m", "benchmarks.equivalence", "--seeds", "0", "--out", tmp_path)
    content = json.loads((tmp_path / "equivalence.json").read_text())
    assert content["curves"] == curves
    ours, others = (
        np.array([90 * curve[-1] / 100 / 500 for curve in curves[name].values()])
        for name in ("standard", "CleanRL")
    )
    # Schuirmann's two tests: is the difference below -margin, or above margin?
    below = stats.ttest_ind(ours + 0.015, others, equal_var=False, alternative="greater").pvalue
    above = stats.ttest_ind(ours - 0.015, others, equal_var=False, alternative="less").pvalue
    row = content["tests"][0]
    assert row["area"] == pytest.approx([ours.mean(), others.mean()])
    assert row["difference"] == pytest.approx(ours.mean() - others.mean())
    assert row["p_value"] == pytest.approx(max(below, above))
    assert row["equivalent"] == equivalent == (max(below, above) < 0.05)
    said = "equivalent" if equivalent else "not shown to be equivalent"
    assert f": {said} within ±0.015" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_trainings_on_the_same_steps_become_a_table(tmp_path):
    """Nothing is trained: one seed, seeds in a process and apart, and one that refused."""
    low, high = -500, -69.1
    levels = np.random.default_rng(0).uniform(low, high, 4)
    named = {"task": "acrobot", "seed": 0}
    trainings = [
        {
            **named,
            "contestant": "ppo_jax",
            "agents": 4,
            "curves": [[None] * 20 + [level] * 80 for level in levels],
            "final_return": -80.0,
        },
        {
            **named,
            "contestant": "SB3",
            "agents": 1,
            "curves": [[low] * 50 + [high] * 50],
            "final_return": -90.0,
        },
        {**named, "contestant": "Ajax", "agents": 4, "left_out": "no such Python"},
    ]
    (tmp_path / "same_steps.json").write_text(json.dumps({"trainings": trainings}))
    speeds = [("ppo_jax", 6000.0, 1.0), ("SB3", 2000.0, 3.0)]
    rows = [
        {
            "recipe": "acrobot",
            "agents": 1,
            "contestant": name,
            "env_steps_per_second": {"median": median},
            "ours_over_it": ratio,
        }
        for name, median, ratio in speeds
    ]
    (tmp_path / "throughput.json").write_text(json.dumps({"rows": rows}))
    command = ("-m", "benchmarks.same_steps", "acrobot", "--markdown", "--out", tmp_path)
    # SB3's seed is held, and ours: no worker starts.
    said = run(*command, "--seeds", "4", "--slow-seeds", "1", "--peers", "stable_baselines3")
    assert said.stderr == ""
    content = json.loads((tmp_path / "same_steps.json").read_text())
    assert content["trainings"] == trainings
    ajax, sb3, ours = content["rows"]
    assert ajax["left_out"] == "no such Python"
    assert (sb3["area"], sb3["interval_95"]) == (pytest.approx(0.5), None)
    areas = 0.8 * (levels - low) / (high - low)
    error = areas.std(ddof=1) / 2
    half = 3.182446305284263 * error  # Student's t of 3 degrees of freedom, 97.5 %
    assert ours["area"] == pytest.approx(areas.mean())
    assert ours["interval_95"] == pytest.approx([areas.mean() - half, areas.mean() + half])
    assert "| acrobot | SB3 | 1 | 0.500 | – | -90.0 | 2,000 | 3.0 |" in said.stdout
    assert "| acrobot | Ajax | left out: no such Python |" in said.stdout
    assert (tmp_path / "same_steps.png").stat().st_size > 0


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_those_that_there_are(tmp_path):
    result = run("-m", "benchmarks.same_steps", "acrobat", "--out", tmp_path / "new", code=2)
    assert result.stdout.startswith("no task acrobat; there are standard, acrobot, continuous, ")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_explains_itself(name):
    if name.startswith("pytorch"):
        pytest.importorskip("torch")
    assert "usage: " in run("-m", f"benchmarks.{name}", "--help").stdout


def spread(row):
    """A row's median speed, which lies in its range."""
    speed = row["env_steps_per_second"]
    low, high = speed["range"]
    assert 0 < low <= speed["median"] <= high
    return speed["median"]


@pytest.mark.slow
def test_throughput_counts_the_operations_of_a_step_and_leaves_out_who_cannot_run(tmp_path):
    pytest.importorskip("torch")
    flags = ("--recipes", "standard", "--agents", "1", "--peers", "--repeats", "2")
    absent = ("--rl-tools", tmp_path / "nowhere")
    content = measured("throughput", tmp_path, *flags, "--seconds", "0.1", *absent)
    rows = {row["contestant"]: row for row in content["rows"]}
    assert {"ppo_jax", "PyTorch", "PyTorch tuned"} <= set(rows)
    assert "rl_tools (Pendulum)" not in rows
    # Actor 4-64-64-2 and critic 4-64-64-1; the first layers' inputs need no gradient.
    forward, first_layers = 2 * (256 + 4096 + 128 + 256 + 4096 + 64), 2 * (256 + 256)
    counted = forward + 4 * (forward + forward + (forward - first_layers))
    for row in rows.values():
        assert row["flops_per_second"] / spread(row) == pytest.approx(counted)
        ratio = spread(rows["ppo_jax"]) / spread(row)
        assert row["ours_over_it"] == pytest.approx(ratio)


@pytest.mark.slow
def test_the_waterfall_says_what_is_left_of_the_environments_speed(tmp_path):
    flags = ("--agents", "1", "2", "--repeats", "2", "--updates", "1")
    rows = measured("waterfall", tmp_path, *flags)["rows"]
    stages = ["environment only", "+ policy", "+ training"]
    assert [(row["agents"], row["stage"]) for row in rows] == [
        (agents, stage) for agents in (1, 2) for stage in stages
    ]
    for row, whole in zip(rows, [rows[0]] * 3 + [rows[3]] * 3, strict=True):
        assert row["left"] == pytest.approx(spread(row) / spread(whole))
        assert row["compile_seconds"] > 0


@pytest.mark.slow
def test_an_update_of_pallas_kernels_compiles_for_an_h100_in_few_launches():
    pytest.importorskip("jax_plugins.xla_cuda13", reason="the CUDA plugin of benchmarks.compiled")
    said = run("-m", "benchmarks.kernels", "standard", timeout=1200).stdout
    launches = re.match(r"standard, agents: 1, launches: (\d+), ", said)
    assert int(launches[1]) <= 12
    names = re.findall(r"^  (\w+_kernel) grid: ", said, re.M)
    kernels = "advantages", "epochs", "finite", "noise", "orders", "rollout", "summary"
    assert sorted(names) == [f"{name}_kernel" for name in kernels]


@pytest.mark.slow
def test_solving_takes_the_median_agent_that_long(tmp_path):
    flags = ("--seeds", "3", "--first-starts", "0", "--starts", "0")
    content = measured("solve", tmp_path, *flags)
    agents = content["warm"]["agents"]
    assert [agent["seed"] for agent in agents] == [0, 1, 2]
    for name in ("train_seconds", "seconds", "updates"):
        values = [agent[name] if agent["solved"] else np.inf for agent in agents]
        assert content["warm"][name]["median"] == sorted(values)[1]
    assert all(agent["train_seconds"] < agent["seconds"] for agent in agents)
    assert content["cold"]["later_start"] == {"median": None, "processes": []}


THUNKS = """000: kCopy [source | sink] kCopy
001: kWhile        [prev=000 (1) | sink        ]
condition:
    002: kCustomKernel [source | sink] wrapped.1 grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | sink]
        003: kCustomKernel [source | sink] gemm grid: [1, 1, 1]
        004: kDynamicSliceFusion [source | sink] params=1, results=1
            005: kCopy [source | sink] kCopy
    006: kDynamicSliceFusion [source | sink] params=1, results=1
        007: kCopy [source | sink] kCopy
    008: kWhile [source | sink]
condition:
        009: kCustomKernel [source | sink] wrapped grid: [1, 1, 1]
      body:
        010: kCopy [source | sink] kCopy
        011: kCustomKernel [source | sink] loop_add grid: [1, 1, 1]
    012: kCopy [source | sink] kCopy
"""
WHOLE = """000: kCommandBuffer [source | sink]
    001: kCopy [source | sink] kCopy
    002: kWhile [source | sink]
condition:
        003: kCustomKernel [source | sink] wrapped.1 grid: [1, 1, 1]
      body:
        004: kCustomKernel [source | sink] gemm grid: [1, 1, 1]
        005: kWhile [source | sink]
condition:
            006: kCustomKernel [source | sink] wrapped grid: [1, 1, 1]
          body:
            007: kCopy [source | sink] kCopy
            008: kCustomKernel [source | sink] loop_add grid: [1, 1, 1]
    009: kCopy [source | sink] kCopy
"""
READ = """import json, sys
from dataclasses import asdict
from benchmarks.peers.reading import Loop, parts_of
loops = Loop("outer", 1, 128, 10), Loop("inner", 128, 3, 2)
found = [parts_of(thunks, loops) for thunks in sys.argv[1:]]
print(json.dumps([[list(asdict(part).values()) for part in parts] for parts in found]))
"""
DUMPED = """import pathlib, sys
from benchmarks.peers.reading import dumped
print(dumped(pathlib.Path(sys.argv[1]), "jit_chunk"), end="")
"""


def test_what_is_launched_in_graphs_and_between_them_and_which_loops_are_captured_whole():
    outer = [128, False, 1, 2, {"DynamicSliceFusion": 1, "Copy": 1}]
    inner = [384, False, 0, 0, {"Copy": 1, "CustomKernel": 1}]
    cut = [[1, False, 0, 0, {"Copy": 1}], outer, inner]
    whole = [[1, False, 1, 2, {}], [128, True, 0, 1, {}], [384, True, 0, 2, {}]]
    assert json.loads(run("-c", READ, THUNKS, WHOLE).stdout) == [cut, whole]


def test_the_thunks_of_a_program_are_those_after_the_last_passes(tmp_path):
    assert "no thunks of jit_chunk" in run("-c", DUMPED, tmp_path, code=1).stderr
    first = tmp_path / "module_0007.jit_chunk.thunk_sequence.txt"
    first.write_text("before")
    (tmp_path / "module_0008.jit_init.thunk_sequence.txt").write_text("another program")
    assert run("-c", DUMPED, tmp_path).stdout == "before"
    last = "module_0007.jit_chunk.thunk_sequence_after_thunk_passes.txt"
    (tmp_path / last).write_text("last")
    assert run("-c", DUMPED, tmp_path).stdout == "last"


@pytest.mark.slow
def test_an_update_is_read_from_what_is_compiled_for_an_absent_gpu(tmp_path):
    """Skipped where jax has no plugin."""
    flags = ("--devices", "gpu:h100", "--recipes", "standard", "--agents", "1", "--peers")
    command = [sys.executable, "-m", "benchmarks.compiled", *flags, "--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    if "pip install" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "compiled.json").read_text())["rows"]
    assert [row["more_graphs"] for row in rows] == [False, True]
    products = 512 * 2 * (8896 + 4 * (3 * 8896 - 512))  # of 512 steps, forward, and in 4 epochs
    for row in rows:
        assert [loop["trips"] for loop in row["loops"]][-1] == 16  # minibatches
        # Every kernel is launched in a graph or by itself, but for the conditions of loops.
        conditions = sum(loop["entered"] * loop["trips"] for loop in row["loops"])
        launched = row["launches_outside"] + row["launches_in_graphs"]
        graphs = sum(part["times"] * part["graphs"] for part in row["parts"])
        assert launched - graphs == row["kernels"] - conditions
        assert products < row["operations"] < 1.3 * products
        assert row["bytes"] > 1e6
    assert (tmp_path / "compiled.png").stat().st_size > 0


@pytest.mark.slow
def test_the_benchmark_for_accelerators_runs_on_a_cpu(tmp_path):
    sizes = ("--agents", "2", "1", "--parts-agents", "1", "--flags-agents", "--size", "64")
    flags = ("--recipes", "standard", "--updates", "2", "--repeats", "1", "--test-seconds", "0")
    content = measured("gpu", tmp_path, *sizes, *flags)
    assert {row["matmul"] for row in content["matmul"]} == {"HIGHEST", "DEFAULT"}
    peak = next(row["flops_per_second"] for row in content["matmul"] if row["matmul"] == "HIGHEST")
    assert [row["agents"] for row in content["sweep"]] == [2, 1]
    for row in content["sweep"]:
        share = spread(row) * row["flops_per_step"] / peak
        assert row["share_of_peak"] == pytest.approx(share)
        # The parameters and Adam's moments at least.
        assert row["program_bytes_per_agent"] > 4 * 3 * 2 * (4 * 64 + 64 * 64 + 2 * 64)
    (parts,) = content["parts"]
    assert parts["milliseconds_an_update"]["rollout"] > 0


# Peers


def requirements(name):
    """The dependencies that a worker's header names, without versions."""
    source = (PEERS / f"{name}.py").read_text()
    headers = re.findall(r"^# /// script$(.*?)^# ///$", source, re.M | re.S)
    assert len(headers) <= 1
    return re.findall(r'"([A-Za-z0-9_.-]+)[^"]*"', "".join(headers).partition("dependencies")[2])


def test_every_peer_says_what_it_needs():
    names = {name.removesuffix("_worker") for name in WORKERS}
    assert {"cleanrl", "stable_baselines3", "sbx", "rejax", "purejaxrl", "rl_tools"} <= names
    for name in WORKERS:
        nothing = name.removesuffix("_worker") in {"ours", "torch", "rl_tools"}
        assert bool(requirements(name)) != nothing, name


def test_no_script_hides_a_package_that_a_peer_imports():
    scripts = {path.stem for path in PEERS.glob("*.py")}
    packages = {package.replace("-", "_") for name in WORKERS for package in requirements(name)}
    assert not scripts & (packages | {"jax", "numpy", "torch", "ppo", "sbx", "wrappers"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ours", "{", "options are not JSON: "),
        ("ours", "[]", "options are a JSON object, not []\n"),
        ("ours", '{"agent": 1}', "no option agent; there are recipe, agents, "),
        ("ours", '{"agents": 0}', "agents is a positive whole number, not 0\n"),
        ("ours", '{"devices": true}', "devices is a positive whole number, not True\n"),
        ("ours", '{"seconds": "5"}', "seconds is a positive number, not '5'\n"),
        ("ours", '{"curves": 1}', "curves is true or false, not 1\n"),
        ("ours", '{"path": 3}', "path is a string, not 3\n"),
        ("ours", '{"recipe": "slow"}', "recipe 'slow': this peer does notebook, standard, fast, "),
        ("torch", '{"recipe": "fast"}', "recipe 'fast': this peer does notebook, standard only\n"),
        ("torch", '{"agents": 2}', "agents 2: this peer trains 1 at once\n"),
        (
            "rejax",
            '{"recipe": "recurrent"}',
            "recipe 'recurrent': this peer does standard, acrobot, continuous, minatar only\n",
        ),
        ("stable_baselines3", '{"recipe": "recurrent"}', "recipe 'recurrent': no memory; "),
        ("sb3_contrib", "{}", "recipe 'standard': this peer does recurrent only\n"),
        ("sbx", '{"recipe": "acrobot"}', "recipe 'acrobot': this peer does standard only\n"),
        ("rl_tools", "{}", "give `path`: a checkout of rl-tools/rl-tools\n"),
        ("rl_tools", '{"path": "/nowhere"}', "path /nowhere: no such folder"),
    ],
)
def test_what_a_peer_cannot_do_is_refused_in_one_line(name, options, message):
    result = run(PEERS / f"{name}_worker.py", options, code=2)
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


WORKER = """
from protocol import Options, Peer, serve

def start(options: Options) -> Peer:
    print("noise on stdout")
    def turn():
        print("more noise")
        MORE
        return {"env_steps": options.agents * 512, "seconds": 0.5}
    return Peer(turn, 1.5, {"fake": "1"}, options.recipe)

serve(start)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a worker whose turns do more, and gives its path."""
    monkeypatch.setenv("PYTHONPATH", str(PEERS))

    def write(more):
        script = tmp_path / "fake_worker.py"
        script.write_text(WORKER.replace("MORE", more))
        return script

    return write


def test_a_worker_serves_turns_whatever_the_peer_prints(write):
    result = run(write("pass"), '{"agents": 3}', input="turn\n" * 3)
    ready, *turns = map(json.loads, result.stdout.splitlines())
    assert ready == {
        "ready": True,
        "compile_seconds": 1.5,
        "versions": {"fake": "1"},
        "note": "standard",
    }
    assert len(turns) == 3
    for turn in turns:
        assert (turn["env_steps"], turn["seconds"]) == (1536, 0.5)
        assert 1e6 < turn["peak_memory_bytes"] < 1e9


def test_a_hung_worker_ends_with_its_parent(write):
    parent = (
        "import os, subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, sys.argv[1], '{}'], stdin=-1, stdout=-1)\n"
        "assert b'ready' in worker.stdout.readline()\n"
        "worker.stdin.write(b'turn\\n')\n"
        "worker.stdin.flush()\n"
        "os._exit(0)\n"
    )
    # Its stderr is the worker's too: `run` returns when both have ended, long before 60 s.
    run("-c", parent, write("import time; time.sleep(60)"), timeout=30)


NEWER = [f"3.{sys.version_info.minor + 1}", f"3.{sys.version_info.minor + 2}"]


def python_for_newer(tmp_path, **found):
    """What a Python is taken, or said, for a peer that needs a newer one; PATH has those found."""
    script = tmp_path / "fake_worker.py"
    script.write_text(f'# /// script\n# requires-python = ">={NEWER[0]}"\n# ///\n')
    for version, command in found.items():
        (tmp_path / version).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / version).chmod(0o755)
    code = (
        "import pathlib, sys; from benchmarks import workers\n"
        "try: print(workers.accepted_python('fake', pathlib.Path(sys.argv[1])))\n"
        "except workers.PeerError as error: print(error)\n"
    )
    return run("-c", code, script, env={**os.environ, "PATH": str(tmp_path)}).stdout


def test_a_peer_that_needs_a_newer_python_gets_one_that_runs(tmp_path):
    names = [f"python{version}" for version in NEWER]
    said = python_for_newer(tmp_path, **{names[0]: "exit 127", names[1]: "exit 0"})
    assert said == f"{(NEWER[1], str(tmp_path / names[1]))}\n"


def test_a_peer_whose_python_is_absent_says_which(tmp_path):
    here = f"3.{sys.version_info.minor}"
    assert python_for_newer(tmp_path) == (
        f"fake needs Python {NEWER[0]} or newer, and this is {here}:"
        f" put python{NEWER[0]} or python{NEWER[1]} on PATH\n"
    )
