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
# Set the folder of images, and where runs are kept: on Colab both on Google Drive, which outlives
# the machine. Reading many small files from Drive is slow; unpack an archive of them to `/content`.
# Files that cannot be read are replaced by others and listed with the reason.

# %%
try:
    from google.colab import drive

    drive.mount("/content/drive")
    IMAGES, RUNS = "/content/drive/MyDrive/my_images", "/content/drive/MyDrive/repre_jax"
except ImportError:  # not on Colab
    IMAGES, RUNS = "my_images", "runs"

# %% [markdown]
# Every number with its rule; what you set, as in `--config.train.epochs=400`, stays.

# %%
# !repre-jax --config=my_images --config.data.path={IMAGES} --explain

# %%
# !repre-jax --config=my_images --config.data.path={IMAGES} --workdir={RUNS}/mine

# %% [markdown]
# Attention, features as colours and nearest neighbours of some images; then one row an image.

# %%
# !repre-jax --config=look --config.checkpoint={RUNS}/mine --workdir=pictures

# %%
from pathlib import Path

from IPython.display import Image, display

for picture in sorted(Path("pictures").glob("*.png")):
    display(Image(str(picture)))

# %%
# !repre-jax --config=eval/features --config.checkpoint={RUNS}/mine --config.split=train
