"""Devices that are not here: XLA compiles programs for them all the same, by their descriptions.

Nothing runs, and no accelerator is initialized. Needs the plugin of the device's kind, not CUDA.
"""

import functools
import os
from typing import Any

import jax
from jax.experimental import topologies

from ppo_jax.objects import first_line
from ppo_jax.run.errors import DeviceError

# What XLA asks of a GPU: numbers of NVIDIA's data sheets, as XLA itself has them; sizes in bytes.
_AMPERE = {"major": 8, "cores": 108, "units": 64, "shared": 167936, "cache": 41943040, "ghz": 1.41}
_HOPPER = {"major": 9, "cores": 132, "units": 128, "shared": 233472, "cache": 52428800, "ghz": 1.98}
_GPUS: dict[str, dict[str, Any]] = {
    "gpu:a100": _AMPERE
    | {"name": "NVIDIA A100-SXM4-80GB", "memory": 85100068864, "bandwidth": 2039040000000},
    "gpu:h100": _HOPPER
    | {"name": "NVIDIA H100 80GB HBM3", "memory": 84942979072, "bandwidth": 3352320000000},
    "gpu:h200": _HOPPER
    | {"name": "NVIDIA H200 141GB HBM3e", "memory": 151397597184, "bandwidth": 4800000000000},
}
_TPUS = {"tpu:v5e:1x1": (1, 1, 1), "tpu:v5e:2x2": (2, 2, 1)}  # chips
_V5E_MEMORY = int(15.75 * 2**30)  # of a chip's 16 GiB, what XLA lets programs have
_GPU_SHARE = 0.75  # that jax takes of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says so
# XLA makes graphs of loops and branches for a driver from 12.3 on.
_GPU_TARGET = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: {shared}
threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {units}
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: {ghz}
device_memory_size: {memory} shared_memory_per_block_optin: {shared_per_block}
cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
registers_per_block_limit: 65536 driver_version: "13.0.0" runtime_version: "13.0.0"
compile_time_toolkit_version: "13.0.0" }} platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}" """


@functools.cache  # programs take the same devices only
def select(name: str) -> list[jax.Device]:
    """The devices of that name. Raises DeviceError where this jax has no plugin for them."""
    jax.config.update("jax_platforms", "cpu")
    try:
        found = _gpu(_GPUS[name]) if name in _GPUS else _tpus(name, _TPUS[name])
    except (NotImplementedError, RuntimeError) as error:
        version = jax.__version__
        install = f"'jax[tpu]=={version}'"
        if name in _GPUS:
            install = f"--no-deps jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}"
        raise DeviceError(
            f"--device {name}: jax {version} cannot compile for it"
            f" ({first_line(error)}); pip install {install}"
        ) from error
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot be read for such devices
    return found


def _gpu(gpu: dict[str, Any]) -> list[jax.Device]:
    target = _GPU_TARGET.format(**gpu, shared_per_block=gpu["shared"] - 1024)
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=target
    )
    return list(topology.devices)[:1]


def _tpus(name: str, chips: tuple[int, int, int]) -> list[jax.Device]:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no cloud to be asked
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"v5litepod-{chips[0] * chips[1]}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=name.partition(":")[2], chips_per_host_bounds=chips
    )
    return list(topology.devices)


def memory(name: str) -> int:
    """Bytes that programs may have on each device."""
    if name in _TPUS:
        return _V5E_MEMORY
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _GPU_SHARE))
    return int(share * _GPUS[name]["memory"])


def compiler_options(name: str) -> dict[str, Any]:
    """What to compile with: for a GPU nothing is tried out."""
    return {"xla_gpu_autotune_level": 0} if name in _GPUS else {}
