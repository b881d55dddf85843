# %% [markdown]
# # Quickstart
# DINO with RePre on handwritten digits: two or three minutes on a CPU, less on an accelerator. No
# images are downloaded.

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
# The run folder is `runs/quickstart`. The same command again goes on where it stopped.

# %%
# !repre-jax --config=quickstart --workdir=runs/quickstart

# %% [markdown]
# What was put in, what was reconstructed of it, and the error.

# %%
from IPython.display import Image

Image("runs/quickstart/figures/reconstructions.png")

# %% [markdown]
# The encoder as a function of images, uint8 or floats in [0, 1].

# %%
import numpy as np
from sklearn.datasets import load_digits

import repre_jax

digits = (load_digits().images[:4] * 15).astype(np.uint8)
images = np.repeat(np.kron(digits, np.ones((4, 4), np.uint8))[..., None], 3, axis=-1)
encoder = repre_jax.load("runs/quickstart")
print(encoder.features(images).shape, [x.shape for x in encoder.maps(images, [1, 3])])

# %% [markdown]
# What it is worth: a k-NN on labels that the training did not see, and the state of its features.

# %%
# !repre-jax --config=eval/knn --config.checkpoint=runs/quickstart
# !repre-jax --config=eval/health --config.checkpoint=runs/quickstart

# %% [markdown]
# `runs/quickstart/report.html` has the curves. Next: `own_images.ipynb` for a folder of yours,
# `pretrain_tpu.ipynb` for an accelerator.
