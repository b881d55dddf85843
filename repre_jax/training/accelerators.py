"""What manufacturers say of accelerators, and devices of ones that are not here.

The compilers of TPUs and GPUs need none of them: what they take is a description of the devices. A
mesh over such devices is as good as any other for ``jit(...).lower(...).compile()``.
"""

import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from repre_jax.errors import UserError


class Accelerator(NamedTuple):
    """One JAX device: dense bfloat16 operations a second, bytes a second, bytes of memory."""

    operations: float
    bandwidth: float
    memory: float


# Device kind as JAX names it. Sources: cloud.google.com/tpu/docs (v3, v4, v5e, v5p, v6e) and
# NVIDIA's data sheets, whose operations "with sparsity" are halved here.
ACCELERATORS = {
    "TPU v3": Accelerator(61.5e12, 450e9, 16e9),  # a chip of 123e12 is two devices
    "TPU v4": Accelerator(275e12, 1200e9, 32e9),
    "TPU v5 lite": Accelerator(197e12, 819e9, 16e9),  # v5e
    "TPU v5": Accelerator(459e12, 2765e9, 95e9),  # v5p
    "TPU v5p": Accelerator(459e12, 2765e9, 95e9),
    "TPU v6 lite": Accelerator(918e12, 1640e9, 32e9),  # v6e
    "NVIDIA A100-SXM4-40GB": Accelerator(312e12, 1555e9, 40e9),
    "NVIDIA A100-SXM4-80GB": Accelerator(312e12, 2039e9, 80e9),
    "NVIDIA A100-PCIE-40GB": Accelerator(312e12, 1555e9, 40e9),
    "NVIDIA A100 80GB PCIe": Accelerator(312e12, 1935e9, 80e9),
    "NVIDIA H100 80GB HBM3": Accelerator(989.4e12, 3350e9, 80e9),
    "NVIDIA H100 PCIe": Accelerator(756e12, 2000e9, 80e9),
    "NVIDIA H200": Accelerator(989.4e12, 4800e9, 141e9),
    "NVIDIA L4": Accelerator(121e12, 300e9, 24e9),
}

# Bytes that the compiler itself lets a program have ("exceeds available HBM (15.75G)").
_TPU_MEMORY = {"v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}  # GiB
# Of a card's memory JAX takes so much (XLA_PYTHON_CLIENT_MEM_FRACTION).
_GPU_SHARE = 0.75
_GPUS = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
# The chip of both; from NVIDIA's "Hopper tuning guide" and the data sheet of H100 SXM.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: {memory:.0f} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{kind}"
"""


def peak_flops_per_second(device_kind: str, compute_dtype: str) -> float | None:
    """Peak of one device; None when it is not known, as for any CPU or another dtype.

    Args:
      device_kind: ``jax.Device.device_kind``.
      compute_dtype: "bfloat16" or other.
    """
    known = ACCELERATORS.get(device_kind) if compute_dtype == "bfloat16" else None
    return known and known.operations


class Topology(NamedTuple):
    """Devices that are not here.

    Attributes:
      name: as typed, "v5e:4x8".
      mesh: over all of them.
      accelerator: what the data sheet says of one.
      memory: bytes of one that a program may have.
      compiler_options: without which nothing compiles for it here.
    """

    name: str
    mesh: Mesh
    accelerator: Accelerator
    memory: int
    compiler_options: dict[str, int | bool]


def open_topology(name: str) -> Topology:
    """Devices by name: "v5e:4x8", chips of a TPU by its axes, or "h100:8", so many GPUs.

    To be called before JAX starts a device: this process is left with its CPU.

    Raises:
      UserError: no such hardware, or its compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind in _TPU_MEMORY and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        devices = _tpus(name, kind)
        memory, options = int(_TPU_MEMORY[kind] * 2**30), {}
    elif kind in _GPUS and re.fullmatch(r"[1-9]\d*", shape):
        devices = _gpus(name, kind, int(shape))
        memory = int(_GPU_SHARE * ACCELERATORS[_GPUS[kind]].memory)
        # Without a card nothing can be timed. Untimed, Triton's products do not always compile
        # (jaxlib 0.10.2), so that all are cuBLAS's.
        options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    else:
        raise UserError(
            f"--target={name} must be a TPU with its chips, such as v5e:4x8 or v4:2x2x4 (of "
            f"{', '.join(_TPU_MEMORY)}), or a GPU with their number, such as h100:8 (of "
            f"{', '.join(_GPUS)})."
        )
    accelerator = ACCELERATORS[devices[0].device_kind]
    return Topology(name, Mesh(devices, ("batch",)), accelerator, memory, options)


def _tpus(name: str, kind: str) -> list[jax.Device]:
    # Google's metadata server, which tells a TPU's host what it is, is not asked for one elsewhere.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any that it knows
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # One process at a time may have a TPU; none is had here.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # The two cores of a v4 or v5p chip are one device of JAX.
    cores = {"chip_config_name": "megacore"} if kind in ("v4", "v5p") else {}
    return _devices(name, "tpu", platform="tpu", topology_name=name, **cores)


def _gpus(name: str, kind: str, count: int) -> list[jax.Device]:
    here = min(count, 8)  # cards of a machine
    if count % here:
        raise UserError(f"--target={name} must be at most 8 GPUs, or machines of 8.")
    card = ACCELERATORS[_GPUS[kind]]
    text = _HOPPER.format(kind=_GPUS[kind], **card._asdict())
    topology = f"1x{count // here}x{here}"  # slices, machines, cards
    return _devices(
        name, "cuda", platform="cuda", topology_name=kind, topology=topology, target_config=text
    )


def _devices(name: str, extra: str, **description: object) -> list[jax.Device]:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # nothing could load what it keeps
    try:
        return topologies.get_topology_desc(**description).devices
    except (RuntimeError, NotImplementedError) as error:
        told = " ".join(str(error).split())
        if "not installed" in told or "not implemented" in told:
            raise UserError(
                f"--target={name} needs the compiler for it: pip install 'repre_jax[{extra}]'."
            ) from error
        raise UserError(f"--target={name} is refused by the compiler: {told}") from error
