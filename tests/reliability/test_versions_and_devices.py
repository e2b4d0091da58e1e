"""Old libraries are refused before they are imported; what a device refuses ends with code 4, and
costs no checkpoint."""

import sys
from importlib import metadata

import jax
import numpy as np
import pytest

from ppo_jax import env, recipe
from ppo_jax.envs import sources
from ppo_jax.run import compiled, devices
from ppo_jax.run.errors import DeviceError
from ppo_jax.run.errors import run_command as run_main
from ppo_jax.run.storage import checkpoints
from tests.helpers.commands import SMALL, run_command
from tests.helpers.faults import EVERY, contents, one_line, resume, updates


@pytest.mark.parametrize(
    ("library", "version", "message"),
    [
        ("gymnax", "0.0.9", "gymnax 0.0.9 is too old; install gymnax>=1.0.1"),
        ("jax", "0.4.38", "jax 0.4.38 is too old; install jax>=0.10.2"),
        ("jax", None, "jax is not installed; install jax>=0.10.2"),
    ],
)
def test_an_old_library_is_refused_before_it_is_imported(
    library, version, message, monkeypatch, empty
):
    installed = metadata.version

    def told(name):
        if name != library:
            return installed(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", told)
    monkeypatch.setitem(sys.modules, "ppo_jax.run.pipeline", None)  # its import fails
    code, said, error = run_command("train")
    assert (code, said) == (2, "")
    one_line(error, message)
    assert not list(empty.iterdir())


def test_the_core_alone_refuses_an_old_gymnax(monkeypatch):
    sources._load_named.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda _: "0.0.9")
    with pytest.raises(ImportError, match=r"gymnax 0.0.9 .* install gymnax>=1.0.1"):
        env.make(recipe("fast"))


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_missing_device_is_refused(device, empty):
    """Never silently the CPU."""
    code, said, error = run_command("train", "--device", device)
    assert (code, said) == (4, "")
    one_line(error, f"--device {device}: jax finds none", "use --device auto")
    assert not list(empty.iterdir())


def test_an_environment_that_mixes_types_is_refused_in_double_precision(empty):
    with jax.enable_x64(True):
        code, said, error = run_command("train", "--env", "DiscountingChain-bsuite")
    assert (code, said) == (2, "")
    one_line(error, "env DiscountingChain-bsuite: an update cannot be traced", "int64")
    assert "leave out JAX_ENABLE_X64=1" in error
    assert not list(empty.iterdir())


@pytest.mark.parametrize("program", ["build", "chunk"])
def test_out_of_memory_says_what_was_asked_and_costs_no_checkpoint(program, killed, monkeypatch):
    """While compiling, and while running."""

    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 4000000 bytes.\nAnd more.")

    build = compiled.build
    failing = {
        "build": exhausted,
        "chunk": lambda *arguments: build(*arguments)._replace(chunk=exhausted),
    }
    monkeypatch.setattr(compiled, "build", failing[program])
    monkeypatch.setattr(compiled.Programs, "memory", lambda _: 0)
    before = contents(killed / "checkpoints")
    code, error = resume(killed)
    assert code == 4
    one_line(
        error,
        *("1 agent of 4 environments", "RESOURCE_EXHAUSTED: 4000000 bytes."),
        "give fewer num_envs, or smaller hidden_sizes",
    )
    assert contents(killed / "checkpoints") == before
    found, corrupt = checkpoints.newest_intact(killed, lambda _: None)
    assert (updates(found), corrupt) == (3 * EVERY, [])


def test_memory_of_the_host_is_the_devices_too(capsys):
    def exhausted(_):
        return np.zeros(2**62, np.uint8)

    assert run_main(exhausted, []) == 4
    one_line(capsys.readouterr().err, "out of memory (", "--group-size trains fewer")


@pytest.mark.parametrize(
    ("agents", "words"),
    [
        (1, ("1 agent at once would take", "give fewer num_envs, or smaller hidden")),
        (5, ("5 agents at once would take ", "--group-size trains fewer at once")),
    ],
)
def test_what_the_machine_cannot_hold_is_refused_before_it_is_killed(
    agents, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "memory_free", lambda _: 1000)
    out = tmp_path / "run"
    code, _, error = run_command("train", *SMALL, "--num-seeds", agents, "--quiet", "--out", out)
    assert code == 4
    one_line(error, "1.0 kB is free", *words)


def test_a_kernel_too_large_for_a_gpu_names_what_needs_less():
    exceeded = "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 294912"
    wanted = pytest.raises(DeviceError, match=r"requested 294912.*give --kernel xla, or")
    with wanted, devices.device_errors("compiling", "--group-size trains fewer"):
        raise jax.errors.JaxRuntimeError(exceeded)


def test_a_container_has_what_its_groups_leave(tmp_path):
    def limit(path, most):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        numbers = {"max": most, "current": 70, "stat": "anon 50\ninactive_file 15"}
        for name, number in numbers.items():
            (tmp_path / path / f"memory.{name}").write_text(f"{number}\n")

    assert devices.left_to_group("0::/job/step\n", tmp_path) == sys.maxsize
    limit("job", 100)
    limit("job/step", "max")
    assert devices.left_to_group("0::/job/step\n", tmp_path) == 100 - 70 + 15
    assert devices.left_to_group("4:memory:/job/step\n", tmp_path) == sys.maxsize
    limit(".", 80)  # of a container, whose own group is its root
    assert devices.left_to_group("0::/\n", tmp_path) == 80 - 70 + 15
    assert devices.left_to_group("0::/job/step\n", tmp_path) == 80 - 70 + 15


@pytest.mark.slow
def test_a_network_that_no_memory_holds(tmp_path):
    arguments = ("--hidden-sizes", 10**6, 10**6, "--num-updates", 1, "--out", tmp_path / "run")
    code, _, error = run_command("train", *arguments, "--quiet")
    assert code == 4
    one_line(error, "1 agent at once would take", "give fewer num_envs, or smaller hidden_sizes")
