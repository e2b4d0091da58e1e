"""The words for users: their code runs, their links lead somewhere, their commands are known."""

import re
import shlex
from pathlib import Path

import pytest

import ppo_jax
from ppo_jax import population
from ppo_jax.cli import flags
from tests.helpers import quick

ROOT = Path(ppo_jax.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = "num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run(code, replacements, **names):
    """The code's names after it has run, with other sizes than a user would choose."""
    for text, smaller in replacements.items():
        assert text in code
        code = code.replace(text, smaller)
    exec(compile(code, "example", "exec"), names)
    return names


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
    index, site = ROOT / "docs" / "README.md", (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"{page.name})" in index.read_text(), page
        assert f": {page.name}\n" in site, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


def test_the_trainings_of_the_pages_are_understood(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(page.read_text() for page in PAGES)
    shown = set(re.findall(r"(?:ppo-jax|python -m ppo_jax) train (-[^\n`#|]+)", text))
    shown |= set(re.findall(r"python -m ppo_jax\.train (-[^\n`#|]+)", text))
    understood = 0
    for line in sorted(shown):
        if re.search("--help|--config|--track|NAME|RUN|\\$", line):
            continue
        flags.read(shlex.split(line), "train")
        understood += 1
    assert understood >= 10


def test_the_ten_lines_of_the_readme_run(capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    smaller = {'recipe("fast")': f'recipe("fast", {SMALL})', "(0, 1000)": "(0, 3)"}
    names = run(code, {**smaller, "jax.jit(": "quick_jit("}, quick_jit=quick.quick_jit)
    assert names["metrics"].episode_return.shape == (3, 10)
    assert "(3, 10)" in capsys.readouterr().out


def test_the_hook_of_the_pages_runs_and_stops(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if quick.compiles(quick.OPTIONS):
        monkeypatch.setattr(population, "COMPILER_OPTIONS", quick.OPTIONS)
    example, _ = blocks(ROOT / "docs" / "hooks.md", "python")
    longer = SMALL.replace("1300", "7680")  # 60 updates
    smaller = {
        'recipe("fast")': f'recipe("fast", {longer})',
        "num_seeds=4": "num_seeds=1",
        "entropy < 0.55": "entropy < 0.7",
    }
    names = run(example, smaller)
    assert names["run"].summary["num_updates"] == 10  # the first that it looks at
    assert (tmp_path / "runs" / "hooked" / "summary.json").exists()
