"""Films: pictures show the state, panels the policy, and files what was drawn."""

import io
import math
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageColor

from ppo_jax import env, evaluate, ppo, recipe, spaces
from ppo_jax.config import Config
from ppo_jax.film import canvas, frames, grid, gymnax_drawers, recording, writing
from ppo_jax.film.canvas import BLUE, GREEN, INK, ORANGE, RED, SKY, Canvas
from ppo_jax.film.drawers import Scene
from ppo_jax.run.console import Console
from tests.helpers.quick import quick_jit

SIDE = frames.SIDE
OFFLINE = "MNISTBandit-bsuite"  # its data come from the network
REPRESENTATIVE = ("Acrobot-v1", "Catch-bsuite", "Reacher-misc", "SpaceInvaders-MinAtar")
NAMES = [
    pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.slow)
    for name in env.names()
    if name != OFFLINE and "Probe" not in name  # which other tests register
]


def random_play(name, steps=40):
    """The stage of an environment, and random steps there as scenes."""
    config = Config(env=name, total_timesteps=512)
    stage, made = recording.set_stage(config), env.make(config)

    @quick_jit
    def play(key):
        def step(carry, key):
            state, _ = carry
            action = draw_action(key, made.action_space)
            state, found = made.step(key, state, action)
            moved = state, found.observation
            return moved, (moved, action, found.reward, found.terminated | found.truncated)

        begun = made.reset(key)
        return begun, jax.lax.scan(step, begun, jax.random.split(key, steps))[1]

    with jax.numpy_rank_promotion("allow"):  # Swimmer's own
        begun, (moved, action, reward, ended) = jax.tree.map(np.asarray, play(jax.random.key(1)))
    last = int(np.argmax(ended)) + 1 if ended.any() else steps
    at = [jax.tree.map(lambda leaf: leaf[index], moved) for index in range(last)]  # noqa: B023
    known = stage.environment, stage.parameters
    led = zip(at, action, reward, strict=False)
    return stage, [Scene(*known, *begun), *(Scene(*known, *one, *by) for one, *by in led)]


def draw_action(key, space):
    if isinstance(space, spaces.Discrete):
        return jax.random.randint(key, (), 0, space.n)
    return jax.random.uniform(key, space.shape, minval=-1.0)


def picture(draw, scene, size=(SIDE, SIDE)):
    own = Canvas(*size)
    draw(own, scene)
    return np.asarray(own.finish())


def where(pixels, color):
    """Rows and columns of the pixels that have this very color."""
    return np.nonzero((pixels == ImageColor.getrgb(color)).all(axis=-1))


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_is_drawn(name):
    stage, scenes = random_play(name)
    assert stage.drawer.draw is not recording.draw_observation
    pictures = [picture(stage.drawer.draw, scene) for scene in (scenes[0], scenes[1], scenes[-1])]
    paper = ImageColor.getrgb(canvas.PAPER)
    assert all((one != paper).any(axis=-1).mean() > 0.02 for one in pictures)
    assert any((one != pictures[0]).any() for one in pictures)
    assert picture(stage.drawer.draw, scenes[0], (136, 96)).shape == (96, 136, 3)
    names = recording.action_names(stage)
    space = stage.action_space
    assert len(names) == (space.n if isinstance(space, spaces.Discrete) else space.size)


@pytest.fixture(scope="module")
def cart_pole():
    return recording.set_stage(recipe("standard", num_envs=4, num_steps=32, total_timesteps=512))


def at_cart(stage, x, angle=0.0):
    state = type("State", (), {"x": x, "theta": angle})
    return picture(stage.drawer.draw, Scene(stage.environment, stage.parameters, state, None))


def test_the_cart_is_where_the_state_says(cart_pole):
    """In units of the track, whose red ends lie at the positions that end an episode."""
    found = []
    for x in (-2.0, 0.0, 1.0):
        pixels = at_cart(cart_pole, x)
        _, ends = where(pixels, RED)
        left, right = ends[ends < SIDE / 2].mean(), ends[ends > SIDE / 2].mean()
        _, cart = where(pixels, INK)
        found.append(-2.4 + 4.8 * (cart.mean() - left) / (right - left))
    assert found == pytest.approx([-2.0, 0.0, 1.0], abs=0.04)


def test_the_pole_leans_to_the_side_of_its_angle(cart_pole):
    for angle in (-0.2, 0.2):
        rows, columns = where(at_cart(cart_pole, 0.0, angle), ORANGE)
        middle = abs(rows - (rows.min() + rows.max()) / 2) < 0.3 * np.ptp(rows)
        slope, _ = np.polyfit(-rows[middle], columns[middle], 1)
        assert math.atan(slope) == pytest.approx(angle, abs=0.03)


def cell(pixels, row, column, rows, margin=0.3):
    """The color in the middle of a square board's cell."""
    at = [round((margin + index + 0.5) * SIDE / (rows + 2 * margin)) for index in (row, column)]
    return tuple(pixels[at[0], at[1]].tolist())


def test_an_object_of_minatar_is_in_its_cell():
    stage, scenes = random_play("Breakout-MinAtar", 6)
    for scene in scenes:
        pixels, state = picture(stage.drawer.draw, scene), scene.state
        assert cell(pixels, 9, int(state.pos), 10) == ImageColor.getrgb(BLUE)
        if int(state.ball_y) < 9:
            seen = cell(pixels, int(state.ball_y), int(state.ball_x), 10)
            assert seen == ImageColor.getrgb(ORANGE)
        for row, column in np.argwhere(state.brick_map).tolist()[::7]:
            assert cell(pixels, row, column, 10) == ImageColor.getrgb(GREEN)


def test_agent_and_goal_of_a_maze_are_in_their_cells():
    stage, scenes = random_play("FourRooms-misc", 12)
    for scene in (scenes[0], scenes[-1]):
        pixels = picture(stage.drawer.draw, scene)
        assert cell(pixels, *scene.state.pos.tolist(), 13) == ImageColor.getrgb(BLUE)
        assert cell(pixels, *scene.state.goal.tolist(), 13) == ImageColor.getrgb(GREEN)
    assert recording.action_names(stage)[1] == "right"


def test_a_digit_is_seen_and_then_its_answer():
    image = np.zeros((28, 28))
    image[4, 20] = 1
    state = type("State", (), {"correct_label": 7})
    pixels = picture(gymnax_drawers.draw_mnist, Scene(None, None, state, image))
    assert cell(pixels, 4, 20, 28, 0.5) == ImageColor.getrgb(BLUE)
    assert cell(pixels, 5, 20, 28, 0.5) == ImageColor.getrgb(canvas.FLOOR)
    for reward, color in ((1.0, GREEN), (-1.0, RED)):
        scene = Scene(None, None, state, 0 * image, 3, reward)
        assert where(picture(gymnax_drawers.draw_mnist, scene), color)[0].size > 50


# The panel ----------------------------------------------------------------------------------------


def trace_of(config, steps, limit, **given):
    """A made-up episode of ones as rewards in so many steps, ended by its environment."""
    state, observation = jax.eval_shape(env.make(config).reset, jax.random.key(0))
    state, observation = jax.tree.map(
        lambda leaf: np.zeros((limit, 1, *leaf.shape)), (state, observation)
    )
    step = np.arange(limit)[:, None]
    flags = {"terminated": step == steps - 1, "truncated": step < 0, "valid": step < steps}
    ones = {"reward": np.ones((limit, 1)), "value": np.linspace(0.0, 1, limit)[:, None]}
    return evaluate.Trace(observation=observation, env_state=state, **flags, **{**ones, **given})


def panels(config, trace):
    """The panel of every frame, and how long each is shown."""
    made = frames.compose(recording.set_stage(config), trace, "agent 7", 1, 20)
    return [(np.asarray(frame)[:, SIDE:], seconds) for frame, seconds in made]


def test_bars_are_as_long_as_probabilities_and_the_chosen_one_is_colored():
    config, share = Config(env="CartPole-v1", total_timesteps=512), np.array([0.2, 0.5, 0.8])
    both = np.stack([share, 1 - share], axis=1)[:, None]
    trace = trace_of(config, 2, 3, action=np.array([[1], [0], [0]]), policy={"probability": both})
    (first, at_first), (second, _), (last, at_last) = panels(config, trace)
    assert (at_first, at_last) == (1 / 20, 1.5)
    wide = [np.ptp(where(first, color)[1]) + 1 for color in (SKY, ORANGE)]
    assert wide[0] / wide[1] == pytest.approx(0.2 / 0.8, abs=0.04)
    rows = [where(first, color)[0].mean() for color in (SKY, ORANGE)]
    assert rows[0] < rows[1]  # the first action's bar is the upper one
    rows = [where(second, color)[0].mean() for color in (SKY, ORANGE)]
    assert rows[1] < rows[0]
    assert where(last, ORANGE)[0].size == 0  # nothing is chosen any more


def test_the_dot_of_a_continuous_action_is_between_its_bounds():
    config = Config(env="Pendulum-v1", total_timesteps=512, discount=0.9)
    action = np.array([-2.0, 0.0, 2.0]).reshape(3, 1, 1)
    own = {"mean": action, "low": action - 0.5, "high": action + 0.5}
    trace = trace_of(config, 3, 3, action=action, policy=own)
    dots = [where(panel, ORANGE)[1].mean() for panel, _ in panels(config, trace)[:3]]
    assert dots[2] - dots[1] == pytest.approx(dots[1] - dots[0], abs=0.6)
    intervals = [np.ptp(where(panel, SKY)[1]) for panel, _ in panels(config, trace)[:3]]
    assert intervals[1] == pytest.approx((dots[2] - dots[0]) / 4, abs=2)
    assert intervals[1] > intervals[0]  # the bound cuts it


def test_every_kth_moment_and_the_last_are_shown():
    config = Config(env="CartPole-v1", total_timesteps=512)
    trace = trace_of(config, 7, 500, action=None, policy={})
    assert recording.moments(trace, 0, 1) == [*range(8)]
    assert recording.moments(trace, 0, 3) == [0, 3, 6, 7]


# Episodes and files -------------------------------------------------------------------------------


def test_greedy_episodes_are_those_of_evaluate():
    config = recipe("standard", num_envs=4, num_steps=32, total_timesteps=512, hidden_sizes=(8,))
    key = jax.random.key(3)
    params = quick_jit(ppo.init)(key, config).params
    trace = recording.record(params, config, key, 3, False)
    returns = quick_jit(evaluate.evaluate, static_argnums=3)(params, config, key, 3)
    assert np.sum(trace.reward, axis=0, where=trace.valid) == pytest.approx(returns)
    lengths = [recording.length(trace, episode) for episode in range(3)]
    assert lengths == returns.tolist()  # a reward of 1 a step
    state = trace.env_state
    seen = np.stack([state.x, state.x_dot, state.theta, state.theta_dot], axis=-1)
    assert np.array_equal(seen, trace.observation)


def read(content):
    """Every frame of a GIF as colors, and the milliseconds of each."""
    image, found = Image.open(io.BytesIO(content)), []
    assert image.info["loop"] == 0
    for index in range(image.n_frames):
        image.seek(index)
        found.append((np.asarray(image.convert("RGB")), image.info["duration"]))
    return found


def test_a_gif_has_every_frame_as_long_as_it_is_shown(tmp_path):
    made = [np.full((20, 30, 3), ImageColor.getrgb(canvas.PAPER), np.uint8) for _ in range(60)]
    for index, pixels in enumerate(made):
        pixels[5:8, index % 30] = ImageColor.getrgb(RED)  # few pixels keep their color
        pixels[index // 3, :] = [index, 2 * index, 255 - index]  # more colors than a palette has
    seconds = [*[0.04] * 59, 1.5]
    pictures = map(Image.fromarray, made)
    pairs = list(zip(pictures, seconds, strict=True))
    writing.write(tmp_path / "new" / "a.gif", pairs, Console(quiet=True))
    found = read((tmp_path / "new" / "a.gif").read_bytes())
    assert [duration for _, duration in found] == [*[40] * 59, 1500]
    for (seen, _), pixels in zip(found, made, strict=True):
        assert np.abs(seen.astype(int) - pixels).max() <= 8
    assert (found[7][0][5:8, 7] == ImageColor.getrgb(RED)).all()


def test_an_mp4_has_as_many_frames(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    image = Image.new("RGB", (64, 32), canvas.BLUE)
    writing.write(tmp_path / "a.mp4", [(image, 0.1)] * 4 + [(image, 0.5)], Console(quiet=True))
    decode = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.mp4", "-f", "rawvideo"]
    decoded = subprocess.run([*decode, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    pixels = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 32, 64, 3)
    assert len(pixels) == 9
    assert np.abs(pixels[0].mean((0, 1)) - ImageColor.getrgb(canvas.BLUE)).max() < 10
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_encoder_that_fails_is_an_error_of_the_file_system(tmp_path, monkeypatch):
    """It reads none of the frames, which are more than a pipe holds."""
    fails = SimpleNamespace(get_ffmpeg_exe=lambda: "false")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", fails)
    image = Image.new("RGB", (640, 320), canvas.BLUE)
    with pytest.raises(OSError, match=r"a\.mp4: ffmpeg ended with code 1"):
        writing.write(tmp_path / "a.mp4", [(image, 0.1)] * 4, Console(quiet=True))


# Environments of one's own ------------------------------------------------------------------------


def own_environment(observation):
    def reset(key):
        return jnp.zeros(()), observation

    def step(key, state, action):
        return state, env.Step(observation, jnp.zeros(()), jnp.array(False), jnp.array(False))

    space = spaces.Box(-jnp.inf, jnp.inf, observation.shape)
    return env.Environment(reset, step, space, spaces.MultiDiscrete((2, 3)), 5)


def test_of_ones_own_environment_the_observation_is_drawn():
    config = Config(
        env=own_environment(jnp.array([3.0, -1.0])), total_timesteps=512, previous_reward=True
    )
    stage = recording.set_stage(config)
    assert stage.drawer.draw is recording.draw_observation
    assert recording.action_names(stage) == ["0: 0", "0: 1", "1: 0", "1: 1", "1: 2"]
    chosen = np.full((5, 1, 2), [1, 0])
    trace = trace_of(config, 4, 5, action=chosen, policy={"probability": np.full((5, 1, 5), 0.3)})
    observation = {"observation": np.full((5, 1, 2), [3.0, -1.0]), "reward": np.zeros((5, 1))}
    scene = stage.scene(trace._replace(observation=observation), 0, 1)
    pixels = picture(stage.drawer.draw, scene)
    heights = [np.ptp(where(pixels, color)[0]) for color in (BLUE, ORANGE)]
    assert heights[0] / heights[1] == pytest.approx(0.75 / 0.5, abs=0.05)  # x / (1 + |x|)
    panel, _ = panels(config, trace)[0]
    rows = np.unique(where(panel, ORANGE)[0])
    assert np.sum(np.diff(rows) > 1) == 1  # two bars are colored: one of each entry


@pytest.mark.parametrize(("scale", "dtype"), [(1, float), (255, np.uint8)])
def test_of_an_image_each_pixel_is_a_square(scale, dtype):
    image = np.zeros((4, 4, 3), dtype)
    image[1, 2] = [scale, 0, 0]
    pixels = picture(recording.draw_observation, Scene(None, None, None, image))
    assert cell(pixels, 1, 2, 4, 0.5) == (255, 0, 0)
    assert cell(pixels, 2, 1, 4, 0.5) == (0, 0, 0)


def test_states_that_hold_a_key_can_be_filmed():
    """As those of many other packages do; nothing of the state is drawn."""
    world = own_environment(jnp.array([3.0, -1.0]))
    keeper = world._replace(reset=lambda key: (key, world.reset(key)[1]))
    config = Config(env=keeper, total_timesteps=512)
    params = ppo.policy(config).init(jax.random.key(0))
    trace = recording.record(params, config, jax.random.key(0), 2, False)
    assert trace.observation.shape == (5, 2, 2)
    assert recording.length(trace, 1) == 5


def test_a_stage_tells_the_steps_of_agents_that_did_not_diverge():
    """An agent that froze after 3 of 10 updates stays at their steps."""
    hook = grid.Snapshots(10)
    batch = SimpleNamespace(
        num_updates=10,
        states=SimpleNamespace(params=np.zeros(4), num_updates=np.array([10, 3, 10, 3])),
        is_real=np.array([True, True, True, False]),
        agent_steps=np.array([1000, 300, 1000]),
    )
    hook.at_boundary(batch)
    assert hook.made[0].env_steps == 1000
