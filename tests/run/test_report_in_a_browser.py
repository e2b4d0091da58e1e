"""The page of a report in headless Chromium, whose program the variable CHROMIUM may name."""

import os

import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import report
from tests.helpers.runs import invent_metrics, write_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)
FLAGS = (
    "--no-sandbox",
    "--no-zygote",
    "--in-process-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
)


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM"), args=list(FLAGS)
            )
        except sync_api.Error:
            pytest.skip("no Chromium: playwright install chromium, or name one in CHROMIUM")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The reports of a run of 12 seeds and of a sweep, and their comparison."""
    path, metrics = tmp_path_factory.mktemp("runs"), invent_metrics(12, 60)
    write_run(path / "run", metrics, np.linspace(400, 500, 12), num_seeds=12)
    sweep = ("learning_rate=0.001,0.01", "discount=0.9,0.99")
    config, returns = recipe("fast", learning_rate=0.01, discount=0.99), np.linspace(0, 500, 12)
    own = {"config": config, "num_seeds": 3, "sweep": sweep, "means": [480, 70, 180, 280]}
    write_run(path / "sweep", metrics, returns, **own)
    texts = {
        "run": report.make([path / "run"]),
        "sweep": report.make([path / "sweep"]),
        "both": report.make([path / "run", path / "sweep"]),
    }
    for name, text in texts.items():
        (path / f"{name}.html").write_text(text)
    return path


def open_page(browser, file, width=1280, scheme="light"):
    """The page, and what it says on its console and asks of the network."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(file.as_uri())
    assert said.pop(0) == file.as_uri()
    return page, said


def brightness(color):
    """Of a color of the form rgb(r, g, b)."""
    return np.mean([int(part) for part in color.strip("rgb()").split(",")])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["run", "sweep", "both"])
def test_a_page_fits_the_screen_and_says_nothing(name, width, scheme, chromium, files):
    page, said = open_page(chromium, files / f"{name}.html", width, scheme)
    style = "getComputedStyle(document.body)"
    ground, ink = (
        brightness(page.evaluate(f"{style}.{one}")) for one in ("backgroundColor", "color")
    )
    assert ground - ink > 150 if scheme == "light" else ink - ground > 150
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for box in page.locator(".plot").all():
        assert box.bounding_box()["width"] > 200
    assert said == []
    page.close()


def test_on_a_phone_the_name_of_a_setting_leaves_room_for_its_numbers(chromium, files):
    page, _ = open_page(chromium, files / "both.html", width=390)
    returns = page.locator("table").first.locator("tr:last-child td:nth-child(3)").bounding_box()
    assert returns["x"] + returns["width"] < 390


def test_the_pointer_shows_values(chromium, files):
    page, said = open_page(chromium, files / "run.html")
    plot = page.locator(".plot").first
    line = plot.locator(".line")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 5)
    values = page.locator("#values")
    last, low, high = (
        float(line.get_attribute(f"data-{of}").split()[-1]) for of in ("y", "low", "high")
    )
    assert f"all seeds: {last:g} ({low:g} to {high:g})" in values.inner_text()
    assert "30,700 environment steps of an agent" in values.inner_text()
    seed = plot.locator(".thin").nth(7)
    place = seed.get_attribute("d").split("L")[30].split()
    page.mouse.move(
        *(
            box[at] + box[size] * int(part) / 1000
            for at, size, part in zip("xy", ("width", "height"), place, strict=True)
        )
    )
    shown = float(seed.get_attribute("data-y").split()[30])
    assert f"seed 7: {shown:g}" in values.inner_text()
    assert "near" in seed.get_attribute("class")
    page.mouse.move(1, 1)
    assert values.is_hidden()
    assert said == []
    page.close()


def test_the_legend_switches(chromium, files):
    page, said = open_page(chromium, files / "sweep.html")
    visible = "[...document.querySelectorAll('[data-keys]')].filter((one) => one.checkVisibility())"
    before = page.evaluate(f"{visible}.length")
    one, seeds = page.locator("[data-key=g1]"), page.locator("[data-key=seeds]")
    of_it = page.evaluate(f"{visible}.filter((one) => one.dataset.keys.includes('g1')).length")
    assert of_it > 5
    one.click()
    assert one.get_attribute("aria-pressed") == "false"
    assert page.evaluate(f"{visible}.length") == before - of_it
    one.press("Enter")
    assert page.evaluate(f"{visible}.length") == before
    assert seeds.get_attribute("aria-pressed") == "false"
    seeds.click()
    assert page.evaluate(f"{visible}.length") == before + 12
    assert said == []
    page.close()


def test_a_page_prints(chromium, files, tmp_path):
    page, _ = open_page(chromium, files / "run.html", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()
