# %% [markdown]
# # Pre-training on a TPU or a GPU
# DINO with RePre, ViT-S/16, on Imagenette: 9,469 photographs of 160 pixels. All chips of the
# machine share every step; activations are bfloat16.

# %% tags=["install"]
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = ".."  # this checkout; on Colab "git+https://<address of your copy>"

# JAX for what is here: a TPU, a GPU of NVIDIA, or the CPU alone.
on_tpu = any(Path("/dev").glob("accel*")) or Path("/dev/vfio").exists()
package = "jax[tpu]" if on_tpu else "jax"
if shutil.which("nvidia-smi"):
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = int(subprocess.check_output(query, text=True).split(".")[0])
    package = "jax[cuda13]" if driver >= 580 else "jax[cuda12]"
if importlib.util.find_spec("repre_jax") is None:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", SOURCE, package])

# %%
import jax

print(jax.__version__, jax.devices())
# %% [markdown]
# A Colab machine goes away after some hours. With the run folder on Google Drive the same command
# goes on from the newest checkpoint on the next machine.

# %%
try:
    from google.colab import drive

    drive.mount("/content/drive")
    RUNS = "/content/drive/MyDrive/repre_jax"
except ImportError:  # not on Colab
    RUNS = "runs"

# %% tags=["network"]
# !wget -q https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz
# !tar xf imagenette2-160.tgz

# %% [markdown]
# What the run will be, before it is one: batch, steps, learning rate, parameters, operations.

# %%
IMAGES = "imagenette2-160"
# !repre-jax --config=imagenette_dino:gpu --config.data.path={IMAGES} --explain

# %% [markdown]
# The training, and without RePre for comparison: `--config=imagenette_dino:gpu,baseline`.

# %%
# !repre-jax --config=imagenette_dino:gpu --config.data.path={IMAGES} --workdir={RUNS}/dino

# %%
# !repre-jax --config=eval/knn --config.checkpoint={RUNS}/dino
# !repre-jax --config=eval/linear --config.checkpoint={RUNS}/dino

# %% [markdown]
# ImageNet: `--config=dino_vits --config.data.name=imagenet2012 --config.data.path=<prepared TFDS>`.
# Several machines: the same command on each, with `--distributed`.
