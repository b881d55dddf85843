"""Every key of a pre-training run, with its unit and its default.

A config file names a method, states what differs from here, and hands the variants after the colon
to ``apply_variants``. Only independent numbers stand in configs: what follows from them (steps,
scaled learning rate) is derived by ``repre_jax/training/resolution.py`` after the command line.
"""

from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from repre_jax import config_files
from repre_jax.data.recipes import ViewRecipe
from repre_jax.errors import UserError
from repre_jax.methods import METHODS


def get_config(method: str) -> ConfigDict:
    """The defaults, with the numbers of ``method``'s paper under ``config.method``."""
    config = ConfigDict()
    config.task = "pretrain"
    config.seed = 0
    config.workdir = ""  # run folder; empty: runs/<config file>-<variants>-<data>
    config.stopped_is_success = False  # exit with 0, not 143, when SIGTERM has stopped and saved

    config.method = METHODS[method].default_config()

    # Replaces numbers of the method's augmentation recipe; None keeps the paper's.
    # Fields: repre_jax/data/recipes.py.
    config.views = ConfigDict(
        {
            "crop_scale": placeholder(tuple),
            "interpolation": placeholder(str),
            "local_crops": placeholder(int),
            "local_size": placeholder(int),  # pixels
            "local_crop_scale": placeholder(tuple),
            "photometric": placeholder(str),  # "torchvision", "simclr" or "byol"
            "flip_probability": placeholder(float),
            "jitter": placeholder(tuple),
            "jitter_probability": placeholder(float),
            "grey_probability": placeholder(float),
            "blur_probability": placeholder(tuple),
            "blur_sigma": placeholder(tuple),  # pixels
            "solarise_probability": placeholder(tuple),
            "local_blur_probability": placeholder(float),
        }
    )

    config.repre = ConfigDict()
    config.repre.enabled = True
    # "decoder", the paper's, or "windows": LoMaR's in its place.
    config.repre.branch = "decoder"
    config.repre.windows = ConfigDict(
        {
            "windows": 4,  # of each image
            "side": 7,  # of a window, in patches
            "mask_ratio": 0.8,
            "normalise_target": True,  # per patch
            "pairing": "independent",  # or "released"; see methods/windows.py
        }
    )
    # Four blocks at even intervals, "single" for the last one, or numbers such as "2,5,8,11".
    config.repre.taps = "multi"
    config.repre.decoder = ConfigDict()
    config.repre.decoder.operator = "conv"  # or "transformer"
    config.repre.decoder.layers = 2  # fusion layers in each of the three blocks
    config.repre.decoder.width = placeholder(int)  # channels; None: the encoder's width
    config.repre.weighting = "learned"  # or "fixed"
    config.repre.fixed_weights = (1.0, 1.0)  # (of the method's loss, reconstruct), when fixed

    config.model = ConfigDict()
    config.model.name = "vit_small"
    config.model.patch_size = 16  # pixels
    # Of a global view, in pixels: 224, or (height, width).
    config.model.image_size = FieldReference(224, field_type=object)
    config.model.channels = 3  # of the images: 1 for grey, more than 3 for the bands of a TIFF
    # Sizes in place of those that the name stands for: of ViT, and of Swin's first stage ...
    config.model.width = placeholder(int)
    config.model.depth = placeholder(int)  # blocks of a ViT
    config.model.heads = placeholder(int)  # of a ViT
    # ... and of each stage of a Swin.
    config.model.stage_depths = placeholder(tuple)
    config.model.stage_heads = placeholder(tuple)
    config.model.window = placeholder(int)  # of Swin, in tokens; None: 7
    # Of ViT: "learned", "sincos" (MoCo v3's), "sincos_columns_first" (MAE's), "relative" (LoMaR's);
    # None: learned. Swin has its own.
    config.model.position = placeholder(str)
    config.model.norm_epsilon = placeholder(float)  # None: 1e-6 in ViT, 1e-5 in Swin
    config.model.initialisation = "dino"  # or "moco_v3", "mae"
    config.model.normalise = True  # pixels less data.mean, over data.std
    config.model.drop_path = 0.0  # of the online network's last block; the target has none
    # A run, or a file of another library, whose weights training starts from; empty: random ones.
    config.model.init_from = ""
    # What the backward pass computes again, for less memory: "attention" also norms and GELU, a few
    # per cent more operations; "block" everything, a third more. On a CPU it saves nothing.
    config.model.remat = FieldReference("none", field_type=object)
    # Whether the sums that pass through all blocks, MAE's decoder's too, are float32 where the rest
    # is bfloat16, as under PyTorch's autocast.
    config.model.float32_residual = False
    config.model.update(getattr(METHODS[method], "MODEL", {}))  # as the paper's encoder is made

    config.data = ConfigDict()
    config.data.source = "tfds"  # or "folder", "huggingface", "tar", "digits"
    # Of "folder": of images, or several folders with commas between them. Of "tfds": the folder of
    # the prepared sets. Of "huggingface": what save_to_disk wrote, or Parquet files. Of "tar": a
    # folder of archives, or a pattern such as train-{000..099}.tar.
    config.data.path = ""
    config.data.name = "imagenet2012"  # of the TFDS set
    # "auto": those of the set, or else class folders; "none": do without. Images of "folder" and
    # "tar" also take "folders", or else a refusal, and a .csv or .tsv file with the columns image
    # and label.
    config.data.labels = "auto"
    # A number a channel; None: ImageNet's, of which one channel has the means.
    config.data.mean = placeholder(tuple)
    config.data.std = placeholder(tuple)
    # Stored values that are black and white, as in (0, 4095): pixels keep 16 bits. None: 8 bits,
    # and each image tells what its values mean (data/sources/levels.py).
    config.data.range = placeholder(tuple)
    config.data.workers = 0  # processes that decode and crop; 0: threads of this process
    config.data.cache_size = 0  # keep images decoded, short side so many pixels; 0: no cache
    # Folder of that cache, and of what reading Parquet and tar needs; empty: ~/.cache/repre_jax.
    config.data.cache_path = ""

    config.train = ConfigDict()
    config.train.batch_size = 1024  # images a step, over all devices and machines
    config.train.epochs = 300
    config.train.steps = placeholder(int)  # instead of epochs
    config.train.accumulate = 1  # micro-batches a step; the gradient stays the whole batch's
    config.train.devices = 0  # 0: all
    config.train.shard_state = False  # a share of parameters, moments and target on each device
    # bfloat16 on accelerators, float32 on a CPU. Accelerators round the factors of float32 products
    # to TF32 or bfloat16, unless JAX_DEFAULT_MATMUL_PRECISION=highest.
    config.train.compute_dtype = "auto"
    config.train.max_nonfinite_steps = 10  # in a row, then the run stops

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "sgd", "lars", "lars_simclr" (lr inside the momentum)
    config.optimizer.learning_rate = 5e-4  # at a batch of 256, scaled linearly
    config.optimizer.start_learning_rate = 0.0  # of the warm-up
    config.optimizer.end_learning_rate = 1e-6  # at the last step
    config.optimizer.scale_ends = False  # start and end, too, are at a batch of 256, and scaled
    # Whose warm-up and cosine: or "deit", "moby", "moco_v2", "moco_v3".
    config.optimizer.schedule = "dino"
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 0.04  # at step 0
    config.optimizer.end_weight_decay = 0.4  # at the last step, by a cosine
    # What weights decay: "matrices", of rank two and more, "kernels", "all_but_norms" or "all".
    config.optimizer.decay = "matrices"
    config.optimizer.momentum = 0.9  # of SGD and LARS
    config.optimizer.beta_1 = 0.9  # of AdamW
    config.optimizer.beta_2 = 0.999  # of AdamW
    config.optimizer.clip_per_tensor = 0.0  # largest norm of each gradient tensor; 0: none
    config.optimizer.clip_global = 0.0  # largest norm of the whole gradient; 0: none

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep = 2  # newest ones; the best by k-NN is kept besides

    config.evaluation = ConfigDict()
    config.evaluation.knn_every_epochs = 10  # 0: only at the end; needs labels and a val split
    config.evaluation.neighbours = 20
    config.evaluation.batch_size = 256
    config.evaluation.few_label = False  # 5 labels a class: pixels, random and trained encoder

    config.logging = ConfigDict()
    config.logging.every_steps = 50
    # Each loss's gradient norm on the encoder, at log steps, of the whole batch at once: it takes
    # the memory of a step without train.accumulate.
    config.logging.loss_gradients = False
    config.logging.profile = ""  # "10:20" traces these steps with JAX's profiler into profile/
    config.logging.wandb = ""  # project, or entity/project, of Weights & Biases; extra "wandb"
    config.logging.mlflow = ""  # tracking URI of MLflow, "sqlite:///mlflow.db"; extra "mlflow"
    return config


def apply_variants(
    config: ConfigDict, variants: str, own: dict[str, Callable[..., None]] | None = None
) -> ConfigDict:
    """Applies "baseline,smoke", "single,layers=4" and the like.

    Those of the config itself, which set a whole recipe, come first and in the order in which it
    has them, so that "epochs=800,official" is 800 epochs; the others in the order given.

    Args:
      config: changed in place.
      variants: names after the colon of ``--config``, separated by commas; may be empty. What
        follows an equals sign is handed to the variant as text.
      own: further variants of this config file.

    Raises:
      UserError: no such variant, or one with a value it does not take.
    """
    own = own or {}
    known = VARIANTS | own
    order = dict(zip(own, range(len(own)), strict=True))
    texts = variants.split(",")
    texts.sort(key=lambda text: order.get(text.split("=")[0], len(own)))
    return config_files.apply_variants(config, texts, known)


def use_views(config: ConfigDict, recipe: ViewRecipe) -> None:
    """Another paper's augmentation, field by field, in place of the method's own."""
    for name in config.views:
        config.views[name] = getattr(recipe, name)


def own_views(config: ConfigDict) -> None:
    """The augmentation of the method's own paper again."""
    for name in config.views:
        config.views[name] = None


def usual_size(config: ConfigDict) -> None:
    """The size that ``config.model.name`` stands for."""
    for key in ("width", "depth", "heads", "stage_depths", "stage_heads"):
        config.model[key] = None


def swin_tiny(config: ConfigDict) -> None:
    """Swin-T in place of a ViT, initialised and normalised as in its own papers."""
    usual_size(config)
    config.model.update({"name": "swin_tiny", "patch_size": 4})
    config.model.update({"position": None, "initialisation": "dino"})


def baseline(config: ConfigDict) -> None:
    """The same run without RePre."""
    config.repre.enabled = False


def single(config: ConfigDict) -> None:
    """RePre from the last block alone (table 4)."""
    config.repre.taps = "single"


def layers(config: ConfigDict, count: str) -> None:
    """Fusion layers in each block of the decoder (table 5)."""
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"Variant layers={count} needs a whole number above 0.")
    config.repre.decoder.layers = int(count)


def decoder(config: ConfigDict, operator: str) -> None:
    """Fusion layers of this kind, "conv" or the encoder's "transformer" blocks (table 5)."""
    config.repre.decoder.operator = operator


def size(config: ConfigDict, side: str) -> None:
    """Side of the images in pixels."""
    if not side.isdecimal() or int(side) < 1:
        raise UserError(f"Variant size={side} needs a whole number above 0.")
    config.model.image_size = int(side)


def epochs(config: ConfigDict, count: str) -> None:
    """Length of the run."""
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"Variant epochs={count} needs a whole number above 0.")
    config.train.epochs = int(count)


def smoke(config: ConfigDict) -> None:
    """Shrinks any run to a minute or two on a CPU: digits, a nano encoder, four steps."""
    config.data.source = "digits"
    config.data.cache_size = 0
    kind = (config.model.name or "vit_small").rsplit("_", 1)[0]  # "vit", "vit_conv" or "swin"
    name, patch = f"{kind}_nano", 4 if kind == "swin" else 8
    usual_size(config)
    config.model.update({"name": name, "patch_size": patch, "image_size": 32})
    config.model.window = 4 if name == "swin_nano" else None
    config.model.remat = "none"
    method = METHODS[config.method.name]
    config.views.update({"local_crops": 2 if method.VIEWS.local_crops else 0, "local_size": 16})
    config.method.update(method.SMOKE)
    config.repre.windows.update({"windows": 2, "side": 3})
    config.train.update({"batch_size": 16, "steps": 4, "accumulate": 1, "devices": 1})
    config.train.compute_dtype = "float32"
    config.optimizer.warmup_epochs = 0.01
    config.checkpoint.every_steps = 2
    config.evaluation.update({"knn_every_epochs": 0, "neighbours": 5, "few_label": False})
    config.logging.every_steps = 1


# The row "w/o decoder" of table 5 has the numbers of the runs without RePre.
VARIANTS = {
    "baseline": baseline,
    "no_decoder": baseline,
    "single": single,
    "layers": layers,
    "decoder": decoder,
    "epochs": epochs,
    "size": size,
    "smoke": smoke,
}
