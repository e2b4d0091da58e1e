"""The words for users: their code and commands run, their links lead somewhere, and what they name
is there."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import jax
import pytest

import ppo_jax
from ppo_jax import cli, population
from ppo_jax.cli import flags
from tests.helpers import quick
from tests.helpers.commands import SMALL as SMALL_FLAGS
from tests.helpers.commands import run_command

ROOT = Path(ppo_jax.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TOUR = json.loads((DOCS / "tour.ipynb").read_text())
SMALL = "num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300"
FAST = {'recipe("fast")': f'recipe("fast", {SMALL})'}
# Smaller sizes than a user would choose, a page's texts and what runs in their place.
SMALLER = {
    "README.md": {**FAST, "(0, 1000)": "(0, 3)"},
    "how-to-environment.md": {"make_mine()), num_seeds=4": f"make_mine(), {SMALL}), num_seeds=2"},
    "how-to-hook.md": {
        'recipe("fast")': f'recipe("fast", {SMALL.replace("1300", "7680")})',  # 60 updates
        "num_seeds=4": "num_seeds=1",
        "entropy < 0.55": "entropy < 0.7",
        "total_timesteps=20_480": SMALL.replace("1300", "5120"),  # 40 updates
    },
    "how-to-network.md": {
        'recipe("fast"': f'recipe("fast", {SMALL}',
        'recipe("standard"': f'recipe("standard", {SMALL}',
    },
    "python.md": {
        **FAST,
        "linspace(-4, -2, 9)": "linspace(-4, -2, 2)",
        "(0, 32)": "(0, 3)",
        "(0, 250)": "(0, 3)",
        "reshape(4, 250, -1)": "reshape(4, 3, -1)",
        'recipe("standard")': f'recipe("standard", {SMALL})',
    },
}
# Pages each of whose blocks stands by itself; elsewhere a block goes on from the one before.
SEPARATE = {"how-to-hook.md", "python.md"}
QUICK = {"README.md"}  # all others run with -m slow
OLD_NAMES = {"migration.md"}
EXTRAS = {"onnx", "onnxruntime", "gymnasium"}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text):
    """The commands of ours in a text, as lists of arguments: (["train", "--seed", "3"], ...)."""
    lines = text.replace("\\\n", " ")
    found = re.findall(r"(?:ppo-jax|python -m ppo_jax)[ .]([a-z]+ [^\n`|]+)", lines)
    return [shlex.split(line.partition(" &")[0], comments=True) for line in found]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [*PAGES, DOCS / "tour.ipynb"], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        target, _, heading = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if heading else []
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, link


def test_every_page_is_in_the_index():
    index, site = DOCS / "README.md", (ROOT / "mkdocs.yml").read_text()
    for page in [*PAGES[1:], DOCS / "tour.ipynb"]:
        assert page.name == "README.md" or f"{page.name})" in index.read_text(), page
        assert f": {page.name}\n" in site, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_in_the_package(page):
    """Every `module.name` of the core."""
    modules = {path.stem for path in (ROOT / "ppo_jax").glob("*.py")} - {"config"}
    for module, names in re.findall(r"`([a-z]+)\.([A-Za-z_.]+)[`(]", page.read_text()):
        a_file = names in (
            "py",
            "csv",
            "json",
            "png",
            "npz",
            "md",
            "gif",
            "html",
            "onnx",
            "stablehlo",
        )
        if module in modules and not a_file and page.name not in OLD_NAMES:
            reduce(getattr, names.split("."), importlib.import_module(f"ppo_jax.{module}"))


def test_every_step_of_how_it_works_names_its_function():
    text = (DOCS / "how-it-works.md").read_text()
    steps = re.split(r"^## \d+\. ", text.partition("## What else")[0], flags=re.MULTILINE)[1:]
    assert len(steps) == 11
    for step in steps:
        assert re.search(r"`[a-z]+\.[A-Za-z_.]+`", step), step


# Python -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of 8 agents in runs/mine."""
    folder = tmp_path_factory.mktemp("trained")
    out = folder / "runs" / "mine"
    assert run_command("train", *SMALL_FLAGS, "--num-seeds", 8, "--quiet", "--out", out)[0] == 0
    return folder


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    """A folder of its own, and trainings that compile in less time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(population, "COMPILER_OPTIONS", quick.options())


def execute(page, small):
    """The names of a page's code after it has run."""
    names = {}
    for code in blocks(page, "python"):
        if page.name in SEPARATE or not names:
            names = {"__name__": "example", "quick_jit": quick.quick_jit}
        for text, smaller in small.items():
            code = code.replace(text, smaller)
        exec(compile(code.replace("jax.jit(", "quick_jit("), page.name, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    own = blocks(page, "python")
    assert page.read_text().count("```python") == len(own)
    for code in own:
        compile(code, page.name, "exec")
    for text in SMALLER.get(page.name, ()) if own else ():
        assert text in "".join(own)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[] if page.name in QUICK else pytest.mark.slow)
        for page in PAGES
        if blocks(page, "python") and page.name != "how-to-hook.md"
    ],
)
def test_the_python_of_a_page_runs(page, quickly, monkeypatch, tmp_path, request):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = page.read_text()
    if "runs/mine" in text and 'out="runs/mine"' not in text and page.name not in QUICK:
        shutil.copytree(request.getfixturevalue("trained"), tmp_path, dirs_exist_ok=True)
    try:
        names = execute(page, SMALLER.get(page.name, {}))
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            pytest.skip(f"{error.name} is not installed")
        raise
    if page.name == "README.md":
        assert names["metrics"].episode_return.shape == (3, 10)
    if page.name == "how-to-environment.md":
        assert len(names["run"].summary["eval_return_per_seed"]) == 2
        assert Path("runs/own/parameters.npz").exists()


def test_the_hooks_of_the_pages_run(quickly):
    execute(DOCS / "how-to-hook.md", SMALLER["how-to-hook.md"])
    updates = {
        name: json.loads(Path("runs", name, "summary.json").read_text())["num_updates"]
        for name in ("hooked", "halved")
    }
    assert updates == {"hooked": 10, "halved": 40}  # stopped at the first that it looks at; whole


# The tour -----------------------------------------------------------------------------------------


def test_the_tour_is_committed_as_it_ran():
    assert (DOCS / "tour.ipynb").stat().st_size < 300_000
    counts = [cell["execution_count"] for cell in TOUR["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [one for cell in TOUR["cells"] for one in cell.get("outputs", ())]
    assert not [one for one in outputs if one["output_type"] == "error" or "stderr" in str(one)]
    assert sum("image/png" in one.get("data", ()) for one in outputs) == 6


@pytest.mark.slow
def test_the_tour_runs(monkeypatch):
    """With a tenth of its thousand agents; what it shows is what its text says."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {"__name__": "tour"}
    for cell in TOUR["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"]).replace("agent_keys(0, 1000)", "agent_keys(0, 100)")
            exec(compile(code, cell["id"], "exec"), names)
    names["plt"].close("all")
    assert names["returns"].mean() >= 475
    assert names["summary"].count.max() == 100
    assert names["lows"][2] > names["highs"][0]  # the rate 1e-2 against 1e-3
    assert (names["lows"] <= names["means"]).all()
    assert (names["means"] <= names["highs"]).all()
    for docking in (names["built_in"], names["own"]):
        first, *_, last = jax.numpy.median(docking.episode_return, axis=1)
        assert last > first + 30
    for curves in (names["metrics"].episode_return, names["spo"]):
        curves = jax.numpy.nanmean(curves, axis=0)
        assert curves[-10:].mean() > curves[0] + 100


# Commands -----------------------------------------------------------------------------------------


class Parsed(BaseException):
    """A command's options were understood."""


def check_understood(arguments, monkeypatch):
    command, *options = arguments
    if command in ("train", "plan"):
        flags.read(options, command)
        return
    parse = flags.parse

    def parse_and_stop(*given):
        parse(*given)
        raise Parsed

    with monkeypatch.context() as patched:
        patched.setattr(flags, "parse", parse_and_stop)
        with pytest.raises(Parsed):
            cli.main(arguments)


def test_the_commands_of_the_pages_are_understood(monkeypatch, tmp_path):
    """But for those of the tuning, which is a record of what was run."""
    monkeypatch.chdir(tmp_path)
    text = "\n".join(page.read_text() for page in PAGES if page.name != "tuning.md")
    shown = {tuple(arguments) for arguments in commands(text)}
    understood = set()
    for arguments in sorted(shown):
        line = " ".join(arguments)
        if re.search(r"--help|--config|--track|\b[A-Z]+\b|\$", line) or len(arguments) < 2:
            continue
        check_understood(arguments, monkeypatch)
        understood.add(arguments[0])
    assert understood >= {"train", "plan", "evaluate", "replay"}


@pytest.mark.slow
def test_the_commands_that_read_a_run_do(trained, tmp_path, monkeypatch):
    """Those of bash blocks."""
    shown = "\n".join(block for page in PAGES for block in blocks(page, "bash"))
    ran = 0
    for arguments in commands(shown):
        if arguments[0] not in ("train", "plan") and "runs/mine" in arguments:
            monkeypatch.chdir(shutil.copytree(trained, tmp_path / str(ran)))
            shutil.copytree("runs/mine", "runs/other")
            code, _, error = run_command(*arguments)
            assert code == 0 or "pip install" in error, error  # an extra
            ran += 1
    assert ran >= 3


def test_bash_is_bash():
    for page in PAGES:
        for code in blocks(page, "bash"):
            subprocess.run(["bash", "-n", "-c", code], check=True)


@pytest.mark.slow
def test_parts_from_the_pages_train_by_name(tmp_path, monkeypatch):
    """The pages' own files in mine.py, and the three names from the command line."""
    monkeypatch.chdir(tmp_path)
    pages = DOCS / "how-to-environment.md", DOCS / "how-to-network.md"
    Path("mine.py").write_text("".join(blocks(page, "python")[0] for page in pages))
    own = ("--env", "mine:make_mine", "--network", "mine:Shared")
    optimizer = ("--optimizer", "mine:make_optimizer")
    done = subprocess.run(
        [sys.executable, "-m", "ppo_jax", "train", *own, *optimizer, *SMALL_FLAGS, "--out", "run"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("run/summary.json").read_text())["finished"]


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (2, False)])
def test_the_job_script_requeues_what_was_stopped(code, requeued, tmp_path):
    """With SLURM's commands and ours replaced."""
    script = next(one for one in blocks(DOCS / "how-to-cluster.md", "bash") if "scontrol" in one)
    replaced = {"srun": '"$@"', "ppo-jax": f"exit {code}", "scontrol": 'echo "$@"'}
    for name, body in replaced.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    done = subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "requeue 17\n" if requeued else "")
