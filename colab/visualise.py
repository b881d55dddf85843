# %% [markdown]
# # Looking at encoders
# What runs have learnt, side by side, and an encoder of somebody else in the same pictures.

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
# Two short runs: RePre from four blocks, and from the last one alone (the paper's figure 4).

# %%
# !repre-jax --config=quickstart --workdir=runs/several
# !repre-jax --config=quickstart:single --workdir=runs/last

# %%
# !repre-jax --config=look --config.checkpoint=runs/several,runs/last --workdir=pictures

# %%
from pathlib import Path

from IPython.display import HTML, Image, display

for picture in sorted(Path("pictures").glob("*.png")):
    display(Image(str(picture)))

# %% [markdown]
# Their curves over each other, as one page.

# %%
# !repre-jax --config=report --config.runs=runs/several,runs/last --workdir=compared
HTML(Path("compared/report.html").read_text())

# %% [markdown]
# The weights of the authors of DINO: attention of the last block, on any images. Put two
# photographs beside the notebook.

# %% tags=["network"]
DINO = "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain"
# !wget -q {DINO}/dino_deitsmall16_pretrain.pth
# !repre-jax --config=import --config.source=dino_deitsmall16_pretrain.pth --workdir=runs/official
IMAGES = "photograph.jpg,another.jpg"
# !repre-jax --config=look --config.checkpoint=runs/official --config.images={IMAGES}
