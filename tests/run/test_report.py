"""What a report shows, against NumPy: its curves, its numbers, its page; nothing is trained."""

import html.parser
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from ppo_jax import recipe
from ppo_jax.run import console, pipeline, report
from ppo_jax.run.report import charts, curves, data
from tests.helpers.commands import refused, run_command
from tests.helpers.runs import invent_metrics, write_run
from tests.helpers.statistics_by_definition import integrated_iqm, solving_by_definition

SOLVED, SEEDS, UPDATES = 475.0, 9, 250
VOID = {"meta", "img", "path", "br"}


class Page(html.parser.HTMLParser):
    """A page's tags, its text, and whether its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if self._open[-1:] not in (["style"], ["script"]):
            self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(path, *others):
    return Page(report.make([path, *others]))


def figures(page_text):
    """The paths of each figure, by its title: a dict of attributes each."""
    found = {}
    for figure in re.findall(r"<figure.*?</figure>", page_text, re.DOTALL):
        title = re.search("<figcaption>(.*?)(?: <small>.*)?</figcaption>", figure)[1]
        svg = ElementTree.fromstring(re.search("<svg.*?</svg>", figure, re.DOTALL)[0])
        found[title] = [path.attrib for path in svg.iter("path")]
    return found


def numbers(text):
    return np.array([float(one) for one in text.split()])


def parts_by_definition(values, points):
    """Means of the known values of each part of the updates."""
    edges = np.linspace(0, len(values), points + 1).astype(int)
    means = np.full((points, values.shape[1]), np.nan)
    for part, agent in itertools.product(range(points), range(values.shape[1])):
        own = values[edges[part] : edges[part + 1], agent]
        if not np.isnan(own).all():
            means[part, agent] = own[~np.isnan(own)].mean()
    return means


def carried_by_definition(values):
    """Each value, or the last known one before it."""
    found = np.full(values.shape, np.nan)
    for row, column in np.ndindex(values.shape):
        known = values[: row + 1, column]
        found[row, column] = [np.nan, *known[~np.isnan(known)]][-1]
    return found


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A run of nine seeds of CartPole: its folder, its metrics and its final returns."""
    path = tmp_path_factory.mktemp("runs") / "ordinary"
    metrics = invent_metrics(SEEDS, UPDATES)
    returns = np.linspace(440, 500, SEEDS)
    write_run(path, metrics, returns, num_seeds=SEEDS, means=[integrated_iqm(returns)])
    return path, metrics, returns


# Curves -------------------------------------------------------------------------------------------


def test_parts_of_training_are_means_of_what_is_known():
    metrics = invent_metrics(5, 230)["episode_return"]
    metrics[:60, 1] = np.nan
    found = curves.binned(metrics)
    np.testing.assert_allclose(found, parts_by_definition(metrics, curves.POINTS))
    np.testing.assert_array_equal(curves.carried(found), carried_by_definition(found))


@pytest.mark.parametrize("agents", [2, 7, 8, 33])
def test_a_band_is_the_interquartile_mean_and_its_percentiles(agents):
    draw = np.random.default_rng(agents)
    values = draw.normal(size=(4, agents)).cumsum(axis=0)
    values[1, 0], values[2] = np.nan, np.nan
    middle, low, high = curves.interquartile(values)
    assert np.isnan([middle[2], low[2], high[2]]).all()
    for point in (0, 1, 3):
        own = values[point][~np.isnan(values[point])]
        assert middle[point] == pytest.approx(integrated_iqm(own))
        if len(own) == 1:
            assert np.isnan([low[point], high[point]]).all()
            continue
        means = [integrated_iqm(draw.choice(own, len(own))) for _ in range(2000)]
        ends = np.quantile(means, [0.025, 0.975])
        assert [low[point], high[point]] == pytest.approx(ends, abs=(ends[1] - ends[0]) / 8)


def test_the_page_has_the_curves_of_the_run(ordinary):
    path, metrics, _ = ordinary
    found = figures(report.make([path]))
    parts = parts_by_definition(metrics["episode_return"], curves.POINTS)
    parts = carried_by_definition(parts)
    (main,) = (
        line for line in found["episode return while training"] if line["class"] == "line c0"
    )
    means = np.array([integrated_iqm(values) for values in parts])
    np.testing.assert_allclose(numbers(main["data-y"]), means, rtol=1e-3)
    assert (numbers(main["data-low"]) <= numbers(main["data-y"])).all()
    thin = [line for line in found["episode return while training"] if line["class"] == "thin c0"]
    assert [line["data-name"] for line in thin] == [f"seed {seed}" for seed in range(SEEDS)]
    for line, own in zip(thin, parts.T, strict=True):
        np.testing.assert_allclose(numbers(line["data-y"]), own, rtol=1e-3, atol=1e-3)
    (share,) = (line for line in found["share of seeds at the threshold"] if "data-y" in line)
    expected = (parts >= SOLVED).mean(axis=1)
    np.testing.assert_allclose(numbers(share["data-y"]), expected, rtol=1e-3)
    assert len(found) == 1 + 3 + len(data.DIAGNOSTICS)


def test_a_point_is_drawn_where_its_value_lies(ordinary):
    found = report.make([ordinary[0]])
    figure = next(one for one in found.split("<figure") if "at the threshold" in one)
    (shape, values) = (
        re.search(rf' {name}="([^"]*)"', figure.partition("data-name")[2])[1]
        for name in ("d", "data-y")
    )
    places = np.array(re.findall(r"(-?\d+) (-?\d+)", shape), int)
    np.testing.assert_allclose(places[:, 1], 1000 * (1.04 - numbers(values)) / 1.08, atol=1)
    assert places[-1, 0] == 1000
    ticks = re.findall(r'<span class="y" style="top:([\d.]+)%"[^>]*>([\d.]+) %<', figure)
    for top, label in ticks:
        assert float(top) == pytest.approx((1.04 - float(label) / 100) / 1.08 * 100, abs=0.1)


def test_the_numbers_that_come_first(ordinary):
    path, metrics, returns = ordinary
    steps = metrics["env_steps"].cumsum(axis=0)
    solving = solving_by_definition(metrics["episode_return"], steps, SOLVED, window=10)
    words = read(path).text
    iqm = integrated_iqm(returns)
    assert f"greedy return {iqm:.4g} 95 %" in words
    assert f"{(returns >= SOLVED).sum()} of {SEEDS} seeds at 475" in words
    assert f"regret {500 - iqm:.4g} to the optimum 500" in words
    middle = np.sort(solving)[SEEDS // 2]
    assert f"steps to solve {console.number(middle)} of an agent" in words
    assert "steps per second 500k 1M in 2 s, after 5 s of compiling" in words


def test_differences_from_the_recipe_and_the_command(ordinary, tmp_path):
    path = tmp_path / "my run"
    config = recipe("standard", env="Pendulum-v1", learning_rate=0.25, hidden_sizes=(7, 9))
    write_run(path, None, np.zeros(2), config=config, num_seeds=2, recipe="standard")
    rows = {name: (here, usual) for name, here, usual in data.differences(data.read(path))}
    assert rows == {
        "learning_rate": ("0.25", "0.00025"),
        "hidden_sizes": ("7, 9", "64, 64"),
        "recipe": ("standard", "fast"),
        "num_seeds": ("2", "1"),
    }
    assert f"ppo-jax train --config '{path / 'config.json'}'" in read(path).text


# Runs of every kind -------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(ordinary):
    text = report.make([ordinary[0]])
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    for tag, attributes in page.tags:
        assert not {"href", "srcset", "action"} & attributes.keys()
        assert attributes.get("src", "data:").startswith("data:")
        assert tag not in {"link", "iframe", "object"}
        if tag == "svg":
            assert attributes["role"] == "img"
            assert re.search(r" over .*: .* (goes )?from ", attributes["aria-label"])


def test_many_seeds_are_few_bytes(tmp_path):
    metrics = invent_metrics(200, 120)
    write_run(tmp_path / "run", metrics, metrics["episode_return"][-1], num_seeds=200)
    text = report.make([tmp_path / "run"])
    assert len(text.encode()) < 200_000
    assert "interval, and 30 of 200 seeds." in text
    assert text.count('class="thin') == data.SEEDS


def test_a_sweep_has_a_heat_map_and_its_ranking(tmp_path):
    path, sweep = tmp_path / "run", ("learning_rate=0.001,0.01,0.1", "discount=0.9,0.99")
    config = recipe("fast", learning_rate=0.01, discount=0.99)
    metrics = invent_metrics(6 * 10, 150)
    returns = np.linspace(0, 500, 60)
    returns[:10] = np.nan  # the default, which lies on the grid, diverged
    means = [None, *np.linspace(310, 480, 5).tolist()]
    table = write_run(path, metrics, returns, config=config, num_seeds=10, sweep=sweep, means=means)
    text = report.make([path])
    page = Page(text)
    assert len(text.encode()) < 500_000
    cells = re.findall(r'<td style="--heat:([\d.]+)"[^>]*>([^<]*)<', text)
    grid = {tuple(table.describe(setting).values()): mean for setting, mean in enumerate(means)}
    order = [grid[one] for one in itertools.product((0.001, 0.01, 0.1), (0.9, 0.99))]
    assert [cell[1] for cell in cells] == ["–" if one is None else f"{one:.4g}" for one in order]
    known = np.array([one for one in order if one is not None])
    heats = [float(heat) for (heat, _), one in zip(cells, order, strict=True) if one is not None]
    np.testing.assert_allclose(heats, (known - known.min()) / np.ptp(known), atol=0.006)
    assert "10 of 60 agents diverged" in page.text
    assert "1 0.1 0.99 480 470 to 485 25 % – 0.50 0" in page.text
    assert "6 (default) 0.01 0.99 – – 25 % – – 1" in page.text
    keys = {attributes.get("data-key") for tag, attributes in page.tags if tag == "button"}
    assert keys == {f"g{setting}" for setting in range(6)} | {"seeds"}


def test_of_many_settings_the_best_and_the_default_are_drawn(tmp_path):
    values = np.linspace(0.001, 0.02, 20)
    path, sweep = tmp_path / "run", (f"learning_rate={','.join(f'{one:.4g}' for one in values)}",)
    metrics = invent_metrics(21 * 2, 20)
    returns, means = np.arange(42.0), np.arange(21.0).tolist()
    table = write_run(path, metrics, returns, num_seeds=2, sweep=sweep, means=means)
    groups = data.read(path).groups
    assert [group.returns.tolist() for group in groups] == [
        [2.0 * setting, 2.0 * setting + 1] for setting in (*range(20, 13, -1), 0)
    ]
    assert groups[-1].name == "learning_rate 0.0025 (default)"
    text = report.make([path])
    assert "interval, and each seed, which the legend switches on." in text
    (margin,) = (paths for title, paths in figures(text).items() if title == "greedy return")
    (line,) = (one for one in margin if one["class"] == "line c0")
    order = np.argsort(table.values["learning_rate"])
    np.testing.assert_allclose(numbers(line["data-y"]), order)


def test_a_diverged_agent_is_left_out_from_then_on(tmp_path):
    metrics = invent_metrics(4, 50)
    metrics["env_steps"][20:, 1] = 0
    for name, values in metrics.items():
        values[20:, 1] = 0 if name == "env_steps" else np.nan
    write_run(tmp_path / "run", metrics, np.array([400, np.nan, 500, 450]), num_seeds=4)
    (group,) = data.read(tmp_path / "run").groups
    assert np.isnan(group.lines[20:, 1]).all()
    assert not np.isnan(group.lines[20:, [0, 2, 3]]).any()
    parts = carried_by_definition(metrics["episode_return"])
    expected = integrated_iqm(parts[-1, [0, 2, 3]])
    assert group.curves["episode_return"].middle[-1] == pytest.approx(expected)
    assert group.curves["episode_return"].steps.tolist() == [512 * (one + 1) for one in range(50)]
    assert "1 of 4 agents diverged" in read(tmp_path / "run").text


def test_an_agent_that_stopped_early_keeps_its_last_return(tmp_path):
    metrics, path = invent_metrics(2, 30), tmp_path / "run"
    metrics["episode_return"] = np.arange(60.0).reshape(30, 2)
    write_run(path, metrics, np.ones(2), num_seeds=2)
    lines = (path / "metrics.csv").read_text().splitlines(keepends=True)
    kept = [
        line for line in lines if not (line.split(",")[1] == "1" and int(line.split(",")[0]) > 9)
    ]
    (path / "metrics.csv").write_text("".join(kept))
    (group,) = data.read(path).groups
    assert group.lines[:, 1].tolist() == [*range(1, 18, 2), *[17] * 21]
    assert group.lines[:, 0].tolist() == list(range(0, 60, 2))
    assert group.curves["episode_return"].steps.tolist() == [512 * (one + 1) for one in range(30)]


def test_the_share_that_solved_never_goes_back_in_time(tmp_path):
    """Even where the last agent needed more steps than agents made on average."""
    metrics = invent_metrics(2, 40)
    metrics["env_steps"][:] = [100, 900]
    metrics["episode_return"][:, 1] = np.where(np.arange(40) < 30, 0, 500)
    write_run(tmp_path / "run", metrics, np.full(2, 500.0), num_seeds=2)
    paths = figures(report.make([tmp_path / "run"]))["share of seeds that have solved it"]
    (line,) = (one["d"] for one in paths if "data-y" in one)
    across = [float(place.split()[0]) for place in line[1:].split("L")]
    assert across == sorted(across)


@pytest.mark.parametrize("seeds", [1, 3])
def test_runs_without_curves_or_results(seeds, tmp_path):
    write_run(tmp_path / "bare", None, np.full(seeds, 300.0), num_seeds=seeds)
    page = read(tmp_path / "bare").text
    assert "There are no curves." in page
    assert ", 195 updates" in page
    write_run(tmp_path / "begun", None, num_seeds=seeds)
    assert "not finished" in read(tmp_path / "begun").text
    write_run(
        tmp_path / "empty",
        {name: values[:0] for name, values in invent_metrics(seeds, 1).items()},
        num_seeds=seeds,
    )
    assert "There are no curves." in read(tmp_path / "empty").text
    none = invent_metrics(seeds, 5)
    none["episode_return"][:] = np.nan
    write_run(tmp_path / "none", none, np.full(seeds, np.nan), num_seeds=seeds)
    page = read(tmp_path / "none").text
    assert "There are no curves." in page
    assert "KL divergence" in page


def test_one_agent_has_its_curve_and_no_band(tmp_path):
    metrics = invent_metrics(1, 40)
    write_run(tmp_path / "run", metrics, np.array([321.0]))
    text = report.make([tmp_path / "run"])
    assert "greedy return 321 mean of 100 episodes" in Page(text).text
    assert not re.search('class="(band|thin|legend)', text)
    (line,) = (one for one in figures(text)["episode return while training"] if "data-y" in one)
    expected = carried_by_definition(metrics["episode_return"])[:, 0]
    np.testing.assert_allclose(numbers(line["data-y"]), expected, rtol=1e-3)


def test_a_run_that_still_trains_is_shown_as_far_as_it_came(tmp_path):
    metrics = invent_metrics(3, 20)
    write_run(tmp_path / "run", metrics, num_seeds=3)
    with open(tmp_path / "run" / "metrics.csv", "a") as file:
        file.write("21,0,107")  # half a line
    page = read(tmp_path / "run").text
    assert "3 seeds, 20 updates" in page
    assert "not finished" in page
    assert "episode return while training" in page


def test_an_interrupted_sweep_shows_the_settings_that_it_began(tmp_path):
    path, metrics = tmp_path / "run", invent_metrics(6, 20)
    write_run(path, metrics, num_seeds=2, sweep=("discount=0.5,0.6",))
    lines = (path / "metrics.csv").read_text().splitlines(keepends=True)
    kept = [
        line for line in lines if line.split(",")[3] != "2" and line.split(",")[1:4:2] != ["1", "1"]
    ]
    (path / "metrics.csv").write_text("".join(kept))
    begun = data.read(path).groups
    assert [group.lines.shape[1] for group in begun] == [2, 1, 0]
    expected = carried_by_definition(metrics["episode_return"])[:, 2]
    np.testing.assert_allclose(begun[1].lines[:, 0], expected)
    assert "discount 0.5" in read(path).text


def test_names_are_shown_and_never_run(tmp_path):
    path = tmp_path / "<script>alert(1)</script>"
    metrics = invent_metrics(2, 10)
    write_run(path, metrics, np.ones(2), num_seeds=2)
    description = json.loads((path / "config.json").read_text())
    description["algorithm"]["env"] = {"object": "<img src=x onerror=alert(2)>"}
    (path / "config.json").write_text(json.dumps(description))
    write_run(tmp_path / "b", metrics, np.ones(2), num_seeds=2)
    (tmp_path / "b" / "config.json").write_text(json.dumps(description))
    for text in (report.make([path]), report.make([path, tmp_path / "b"])):
        page = Page(text)
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert "img" not in {tag for tag, _ in page.tags}
        assert "<img src=x onerror=alert(2)>" in page.text
        assert "{{" not in text


def test_parameters_of_an_object_are_not_another_environments(tmp_path):
    """A sweep begins with the environment's own value, which only the object knows."""
    path = tmp_path / "run"
    write_run(path, num_seeds=2, sweep=("env_params.force_mag=5",))
    description = json.loads((path / "config.json").read_text())
    description["algorithm"]["env"] = {"object": "mine.Mine"}
    (path / "config.json").write_text(json.dumps(description))
    refused(2, f"{path}: no file holds its env (mine.Mine), given as a Python", "report", path)


def test_evolution_shows_the_best_and_the_range(tmp_path):
    path = tmp_path / "run"
    write_run(
        path,
        invent_metrics(4, 40),
        np.ones(4),
        num_seeds=4,
        evolve=("learning_rate=log:1e-4:1e-1",),
    )
    rows = ["update,agent,parent,fitness,learning_rate"]
    (path / "evolution.csv").write_text(f"{rows[0]}\r\n")  # a run that only begins
    assert "Evolution" not in read(path).text
    values = {
        0: ("", [1, 2, 4, 8]),
        20: ([5, 9, 7, 1], [3, 2, 4, 2]),
        40: ([6, 8, 9, 2], [3, 2, 5, 2]),
    }
    for update, (fitness, own) in values.items():
        rows += [f"{update},{one},,{fitness and fitness[one]},{own[one]}e-3" for one in range(4)]
    (path / "evolution.csv").write_text("\r\n".join(rows) + "\r\n")
    found = figures(report.make([path]))["learning_rate"]
    lines = {one["data-name"]: numbers(one["data-y"]).tolist() for one in found if "data-y" in one}
    assert lines == {
        "best agent": [0.002, 0.005],
        "lowest": [0.001, 0.002, 0.002],
        "highest": [0.008, 0.004, 0.005],
    }


@pytest.mark.parametrize("seeds", [1, 4])
def test_evaluations_are_drawn_over_steps(seeds, tmp_path):
    path = tmp_path / "run"
    write_run(path, invent_metrics(seeds, 40), np.ones(seeds), num_seeds=seeds)
    returns = np.arange(3.0 * seeds).reshape(3, seeds) ** 2
    rows = [
        f"{update},{seed},{1000 * update},{returns[row, seed]}"
        for row, update in enumerate((10, 20, 30))
        for seed in range(seeds)
    ]
    (path / "evaluations.csv").write_text("\n".join(["update,seed,step,eval_return", *rows, ""]))
    (line,) = (
        one
        for one in figures(report.make([path]))["greedy return while training"]
        if "data-y" in one
    )
    expected = [integrated_iqm(row) for row in returns]
    np.testing.assert_allclose(numbers(line["data-y"]), expected, rtol=1e-3)
    (group,) = data.read(path).groups
    assert group.curves["eval_return"].steps.tolist() == [10_000, 20_000, 30_000]


def test_an_agent_that_stopped_early_keeps_its_last_evaluation(tmp_path):
    path = tmp_path / "run"
    write_run(path, invent_metrics(2, 40), np.ones(2), num_seeds=2)
    rows = ["10,0,1000,500", "10,1,1000,10", "20,1,2000,20", "30,1,3000,30"]
    (path / "evaluations.csv").write_text("\n".join(["update,seed,step,eval_return", *rows, ""]))
    (group,) = data.read(path).groups
    assert group.curves["eval_return"].middle.tolist() == [255, 260, 265]
    assert group.curves["eval_return"].steps.tolist() == [1000, 2000, 3000]


def test_a_film_is_there_as_small_pictures(ordinary, tmp_path):
    write_run(tmp_path / "run", None, np.ones(1))
    gray = np.linspace(0, 255, 400 * 300).reshape(300, 400).astype(np.uint8)
    frames = [Image.fromarray(np.roll(gray, 9 * one, axis=0)) for one in range(25)]
    frames[0].save(tmp_path / "run" / "film.gif", save_all=True, append_images=frames[1:])
    text = report.make([tmp_path / "run"])
    assert re.findall(r'<img alt="(frame \d+) of', text) == ["frame 0", "frame 10", "frame 20"]
    assert len(text) < 400_000
    assert "<img" not in report.make([ordinary[0]])


# Several runs, and the command --------------------------------------------------------------------


def test_runs_are_compared_with_the_first(ordinary, tmp_path):
    path, _, returns = ordinary
    others = np.linspace(430, 495, 6)
    others[2] = np.nan
    config = recipe("fast", learning_rate=0.01)
    write_run(tmp_path / "other", invent_metrics(6, 90, seed=1), others, config=config, num_seeds=6)
    text = report.make([path, tmp_path / "other"])
    scores = np.where(np.isnan(others), -np.inf, others)
    wins = [(x > y) + (x == y) / 2 for x, y in itertools.product(scores, returns)]
    page = Page(text)
    assert "CartPole-v1: 2 runs" in page.text
    assert f"{np.mean(wins):.2f} Learning" in page.text
    assert "learning_rate 0.0025 0.01" in page.text
    main = figures(text)["episode return while training"]
    assert {one["class"] for one in main if "data-y" in one} == {
        "line c0",
        "thin c0",
        "line c1",
        "thin c1",
    }


def test_runs_of_other_environments_are_refused(ordinary, tmp_path):
    write_run(tmp_path / "other", config=recipe("fast", env="Acrobot-v1"))
    refused(2, "is of Acrobot-v1, and", "report", ordinary[0], tmp_path / "other")


def test_the_command_writes_where_it_is_told(ordinary, tmp_path):
    path, out = ordinary[0], tmp_path / "there.html"
    assert run_command("report", path) == (0, f"wrote {path / 'report.html'}\n", "")
    assert run_command("report", path, "--out", out, "--quiet") == (0, "", "")
    assert out.read_bytes() == (path / "report.html").read_bytes()
    assert run_command("report", path, path, "--quiet") == (0, "", "")
    assert (path / "comparison.html").exists()


def test_what_is_no_run_is_refused(ordinary, tmp_path):
    refused(2, "there is no RUN", "report")
    refused(2, "is not a run's folder", "report", tmp_path)
    refused(3, "there.html", "report", ordinary[0], "--out", tmp_path / "no" / "there.html")
    said = f"--out {tmp_path} is a folder; give a file, such as {tmp_path / 'report.html'}"
    refused(2, said, "report", ordinary[0], "--out", tmp_path)
    refused(2, "--out . is a folder", "report", ordinary[0], "--out", ".")
    write_run(tmp_path / "run", invent_metrics(1, 3), np.ones(1))
    with open(tmp_path / "run" / "metrics.csv", "a") as file:
        file.write("4,0,what\n")
    refused(2, "is corrupt", "report", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    refused(2, "is corrupt", "report", tmp_path / "run")


@pytest.mark.parametrize("seed", ["6", "9", "", "nan", "inf", "7.5", "-1e300"])
def test_a_row_of_no_agent_of_the_run_is_refused(seed, tmp_path):
    path = tmp_path / "run"
    write_run(path, invent_metrics(2, 3), np.ones(2), num_seeds=2, seed=7)
    lines = (path / "metrics.csv").read_text().splitlines()
    lines[-1] = lines[-1].replace(",8,", f",{seed},", 1)
    (path / "metrics.csv").write_text("\n".join(lines))
    said = f"{path} is corrupt (metrics.csv has rows of agents that the run does not have)"
    refused(2, said, "report", path)


def test_a_file_that_cannot_be_read_is_not_one_that_cannot_be_written(tmp_path):
    path = tmp_path / "run"
    write_run(path, returns=np.ones(1))
    (path / "metrics.csv").mkdir()
    said = "metrics.csv: Is a directory; give a run whose files are there and can be read"
    refused(3, said, "report", path)


def test_a_report_that_fails_is_one_warning(monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("of the report\nin two lines")

    monkeypatch.setattr(report, "make", fail)
    pipeline._write_report(tmp_path, pipeline.Console(quiet=True))
    assert capsys.readouterr().err == "ppo_jax: warning: no report.html: of the report\n"
    assert not (tmp_path / "report.html").exists()


# Charts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 500, False, [0, 100, 200, 300, 400, 500]),
        (-0.04, 1.04, False, [0, 0.25, 0.5, 0.75, 1]),
        (2e-13, 7.4e-13, False, [2e-13, 4e-13, 6e-13]),
        (1e-4, 0.1, True, [1e-4, 1e-3, 1e-2, 1e-1]),
        (0.2, 0.9, True, [0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_ticks_are_round_and_within(low, high, log, ticks):
    assert charts._ticks(low, high, 5, log) == pytest.approx(ticks, rel=1e-9)


@pytest.mark.parametrize(
    "values",
    [[3, 3, 3], [0, 0, 0], [5, np.nan, 5], [1e38, -1e38, 0], [1, np.inf, 2], [1e-300, 2e-300, 0]],
)
def test_any_values_can_be_drawn(values):
    line = charts.Line("a line", "", 0, np.arange(3.0), np.array(values, float))
    drawn = charts.chart("title", [line, line._replace(kind="dots")], "x")
    places = np.array(re.findall(r"[ML](-?\d+) (-?\d+)", drawn.partition("data-y")[2]), int)
    assert places.size
    assert ((places >= 0) & (places <= 1000)).all()


def test_a_single_value_can_be_drawn_on_a_logarithmic_axis():
    """Of a sweep of which the other settings diverged."""
    line = charts.Line("a", "", 0, np.array([1e-3, 1e30]), np.array([5, np.nan]), kind="dots")
    assert re.search(r'd="M500 \d+h0"', charts.chart("title", [line], "x", log="x"))


def test_an_outlier_does_not_flatten_the_rest():
    """It is cut off, which the title says; levels are not, nor are dots."""
    y = np.array([-40_000.0, *np.linspace(0, 100, 99)])
    line = charts.Line("a line", "", 0, np.arange(100.0), y)
    drawn = charts.chart("title", [line], "x", levels=[charts.Level("there", 500.0)])
    assert "title <small>(cut off: lowest -40k)</small>" in drawn
    heights = np.array(re.findall(r"[ML]\d+ (-?\d+)", drawn.partition("data-y")[2]), int)
    assert heights[0] > 1000
    assert np.ptp(heights[1:]) > 120
    assert 0 < float(re.search(r'top:([\d.]+)%"[^>]*>there<', drawn)[1]) < 100
    assert "cut off" not in charts.chart("title", [line._replace(kind="dots")], "x")
    assert "cut off" not in charts.chart("title", [line._replace(y=y[1:], x=line.x[1:])], "x")


def test_two_levels_have_their_names_at_either_side():
    line = charts.Line("a line", "", 0, np.arange(3.0), np.array([0.0, 5, 10]))
    levels = [charts.Level("solved", 9.5), charts.Level("optimum", 10.0)]
    drawn = charts.chart("title", [line], "x", levels=levels)
    marks = re.findall(r'class="(mark[^"]*)" style="(\w+):1%;[^>]*>(\w+)<', drawn)
    assert marks == [("mark below", "left", "solved"), ("mark below", "right", "optimum")]


def test_without_values_there_is_no_chart():
    line = charts.Line("a line", "", 0, np.arange(3.0), np.full(3, np.nan))
    assert charts.chart("title", [line], "x") == ""
    assert charts.chart("title", [], "x") == ""
