# %% [markdown]
# # Your own images
# A folder of images, labelled by class folders or not. Batch, length, prototypes, momentum and
# temperatures are chosen from their number and from the devices.

# %% tags=["install"]
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = ".."  # this package: a folder, or "git+https://..." of your copy

# JAX for what is here: a TPU, a GPU of NVIDIA, or the CPU alone.
on_tpu = any(Path("/dev").glob("accel*")) or Path("/dev/vfio").exists()
package = "jax[tpu]" if on_tpu else "jax[cuda13]" if shutil.which("nvidia-smi") else "jax"
if importlib.util.find_spec("repre_jax") is None:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", SOURCE, package])

# %%
import jax

print(jax.__version__, jax.devices())
# %% [markdown]
# Set the folder; on Colab, one of Google Drive once it is mounted. Files that cannot be read are
# replaced and listed with the reason.

# %%
IMAGES = "my_images"

# %% [markdown]
# Every number with its rule; what you set, as in `--config.train.epochs=400`, stays.

# %%
# !repre-jax --config=my_images --config.data.path={IMAGES} --explain

# %%
# !repre-jax --config=my_images --config.data.path={IMAGES} --workdir=runs/mine

# %% [markdown]
# Attention, features as colours and nearest neighbours of some images; then one row an image.

# %%
# !repre-jax --config=look --config.checkpoint=runs/mine --workdir=pictures

# %%
from pathlib import Path

from IPython.display import Image, display

for picture in sorted(Path("pictures").glob("*.png")):
    display(Image(str(picture)))

# %%
# !repre-jax --config=eval/features --config.checkpoint=runs/mine --config.split=train
