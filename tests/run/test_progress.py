"""What the screen shows while agents train: in a terminal, and elsewhere."""

import io
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.live import Live

from ppo_jax.run import console as consoles
from ppo_jax.run import progress
from ppo_jax.run.progress import Progress

UPDATES, AGENTS = 200, 8
DEVICES = [SimpleNamespace(platform="cpu", device_kind="a device", memory_stats=lambda: None)]


class Clock:
    """A clock that goes on where it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def a_batch(first, last, returns, *, number=1, stop_reason=None, solved=0.25):
    """A batch after the updates `first` to `last`, of which each has this interquartile return."""
    iqm = np.array(returns, float)
    spread = np.array([-40, -10, 0, 10, 40.0])
    found = SimpleNamespace(
        iqm=iqm,
        mean=iqm + 1,
        solved=np.full(len(iqm), solved),
        count=np.full(len(iqm), AGENTS // 2),
        quantiles=iqm[:, None] + spread,
    )
    return SimpleNamespace(
        number=number,
        num_updates=last,
        chunk=SimpleNamespace(first_update=first, statistics=SimpleNamespace(returns=found)),
        real_ids=np.arange(AGENTS),
        env_steps=last * 1000,
        seconds=last / 10,
        stop_reason=stop_reason,
    )


def console_on(file, monkeypatch):
    monkeypatch.setattr("sys.stdout", file)
    made = consoles.Console(quiet=False)
    made.width = 100
    return made


def shown(file):
    """What has been written, without colors and cursor movements."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())


def test_a_terminal_shows_where_training_stands(monkeypatch):
    file = Terminal()
    hook = Progress(console_on(file, monkeypatch), 1, UPDATES, DEVICES)
    hook.at_boundary(a_batch(1, 100, np.linspace(0, 300, 100)))
    hook.close()
    lines = [line.rstrip() for line in shown(file).splitlines()]
    assert "training" in lines[0]
    assert "50%, 0:00:10 left" in lines[0]
    heights = re.search("return +([▁▂▃▄▅▆▇█]+) +300$", lines[1])[1]
    assert len(heights) == progress._WIDTH // 2
    assert list(heights) == sorted(heights)
    assert heights[0] == "▁"
    assert heights[-1] == "█"
    assert "260 to 340 for 90% of agents" in lines[2]
    assert "25.0% of the 4 agents that just ended an episode" in lines[3]
    assert "100,000 steps, 10,000 steps/s" in lines[4]
    assert re.search(r"memory +[\d.]+ [MG]B, cpu \(a device\)", lines[5])


def test_80_columns_hold_it_and_a_device_tells_its_memory(monkeypatch):
    file, console = Terminal(), console_on(Terminal(), monkeypatch)
    console.file, console.width = file, 80
    monkeypatch.setattr(DEVICES[0], "memory_stats", lambda: {"bytes_in_use": 3_200_000_000})
    hook = Progress(console, 1, UPDATES, DEVICES)
    batch = a_batch(1, UPDATES, np.linspace(-12345.678, -1234.567, UPDATES))
    batch.real_ids, batch.env_steps = np.arange(10_000), 10**10
    hook.at_boundary(batch)
    hook.close()
    lines = shown(file).splitlines()
    assert len(lines) == 2 * 6  # drawn again where it ends
    assert lines[5].split(maxsplit=1)[1].strip() == "3.2 GB, cpu (a device)"


def test_what_is_unknown_is_not_shown(monkeypatch):
    file = Terminal()
    hook = Progress(console_on(file, monkeypatch), 2, UPDATES, DEVICES)
    hook.at_boundary(a_batch(1, 100, [math.nan] * 100, solved=math.nan))
    hook.close()
    assert "return    none yet" in shown(file)
    assert "solved" not in shown(file)
    assert "25%, 0:00:30 left" in shown(file)


def test_another_batch_begins_another_curve(monkeypatch):
    file = Terminal()
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    hook = Progress(console_on(file, monkeypatch), 2, UPDATES, DEVICES)
    hook.at_boundary(a_batch(1, UPDATES, np.linspace(0, 300, UPDATES)))
    clock.now += 60
    file.truncate(0)
    hook.at_boundary(a_batch(1, 5, [7.0] * 5, number=2))
    hook.close()
    assert re.search("▁ {2,}7 *\n", shown(file))


def test_drawing_takes_little_of_the_time(monkeypatch):
    """However long a drawing takes, and however often there is a boundary."""
    clock, drawn, file = Clock(), [], Terminal()
    monkeypatch.setattr(progress, "time", clock)

    def update(self, screen, refresh):
        drawn.append(clock.now)
        clock.now += cost

    monkeypatch.setattr(Live, "update", update)
    for cost in (0.001, 0.05):
        drawn.clear()
        hook = Progress(console_on(file, monkeypatch), 1, 20_000, DEVICES)
        started = clock.now
        for update_number in range(1, 2000):
            clock.now += 0.05
            hook.at_boundary(a_batch(update_number, update_number, [1.0]))
        hook.close()
        assert len(drawn) > 10
        assert np.diff(drawn).min() >= progress._SECONDS
        assert cost * len(drawn) / (clock.now - started) <= 0.02


@pytest.mark.parametrize("ending", ["all its updates", "solved"])
def test_the_end_is_always_drawn(ending, monkeypatch):
    file = Terminal()
    monkeypatch.setattr(progress, "time", Clock())  # which stands still
    hook = Progress(console_on(file, monkeypatch), 1, UPDATES, DEVICES)
    hook.at_boundary(a_batch(1, 1, [1.0]))
    hook.at_boundary(a_batch(2, 2, [2.0]))
    assert "2,000 steps" not in shown(file)
    last = UPDATES if ending == "all its updates" else 3
    hook.at_boundary(a_batch(last, last, [3.0], stop_reason=None if last == UPDATES else ending))
    hook.close()
    assert f"{last * 1000:,} steps" in shown(file)


def test_elsewhere_there_are_ten_lines(monkeypatch):
    file = io.StringIO()
    hook = Progress(console_on(file, monkeypatch), 1, UPDATES, DEVICES)
    for update in range(1, UPDATES + 1):
        hook.at_boundary(a_batch(update, update, [float(update)]))
    hook.close()
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4] == (
        "training  50%: 100,000 steps, 10,000 steps/s, mean return 101, 0:00:10 left"
    )


def test_quiet_says_nothing(monkeypatch):
    file = Terminal()
    monkeypatch.setattr("sys.stdout", file)
    hook = Progress(consoles.Console(quiet=True), 1, UPDATES, DEVICES)
    hook.at_boundary(a_batch(1, UPDATES, [1.0] * UPDATES))
    hook.close()
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((0.98765, "0.9877"), (487.25, "487.2"), (500.0, "500"), (9999, "9999")),
        *((-0.0, "0"), (0.00025, "0.00025"), (1e-5, "1e-05"), (1e38, "1e+38")),
        *((1.5e6, "1.5M"), (25_600, "25.6k"), (-12345.6, "-12.35k"), (9999.7, "10k")),
        *((None, "–"), (math.nan, "–"), (-math.inf, "–")),
    ],
)
def test_numbers_have_four_digits(value, said):
    assert consoles.number(value) == said
