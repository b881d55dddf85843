# %% [markdown]
# # Fine-tuning and export
# The encoder of a run, trained further on labels, and taken to timm and transformers.

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
# %%
# !repre-jax --config=quickstart --workdir=runs/quickstart

# %% [markdown]
# Fine-tuned, and the same network from scratch with the same budget.

# %%
RECIPE = "--config.checkpoint=runs/quickstart --config.recipe.epochs=5"
# !repre-jax --config=eval/finetune {RECIPE}
# !repre-jax --config=eval/finetune {RECIPE} --config.weights=random

# %% [markdown]
# The encoder for timm: weights, config and a model card. Where timm is installed, it opens what was
# written, and both are compared on random images.

# %%
RUN = "--config.checkpoint=runs/quickstart"
# !repre-jax --config=export {RUN} --config.format=timm --workdir=for_timm

# %% tags=["network"]
# !pip install -q torch timm
import timm

timm.create_model("local-dir:for_timm", pretrained=True)

# %% [markdown]
# The same for transformers, image processor included. Other formats: `official`, `safetensors`,
# and the function itself as `stablehlo` or `onnx`.

# %%
# !repre-jax --config=export {RUN} --config.format=huggingface --workdir=for_transformers
