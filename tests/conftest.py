"""Eight simulated devices for every test; must run before anything imports jax."""

import atexit
import gc
import os
import shutil
import tempfile

# Files that take longest come first, so that parallel workers end together.
LONGEST_FIRST = (
    "test_resume",
    "test_installed",
    "training/test_step",
    "test_main",
    "test_every_method",
)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The shortest way to a program: tests run theirs a few times on a few numbers. Fusions
        # by the emitters of MLIR alone take two thirds of what is left of the compile time.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
).strip()

# What one test has compiled, others need not, nor the processes that they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="repre_jax_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"


def pytest_collection_modifyitems(items):
    def late(item):
        return not any(str(item.path).endswith(f"{name}.py") for name in LONGEST_FIRST)

    items.sort(key=late)


def pytest_collection_finish():
    # What is imported stays: the collector need not walk through it every few seconds.
    gc.freeze()
    gc.set_threshold(10_000)
