"""Every key of a SETR training, with the numbers of its Cityscapes configs."""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from repre_jax.evaluation import defaults


def get_config() -> ConfigDict:
    """SETR-PUP on Cityscapes (fudan-zvg/SETR, configs/SETR/SETR_PUP_DeiT_768x768_40k_*)."""
    config = defaults.of_an_encoder("setr")
    config.data = defaults.segmentation_data()
    config.data.layout = "cityscapes"
    config.image_size = 768  # of crops and windows; (height, width), or one number
    config.batch_size = 8  # windows of validation images at a time
    config.workers = 0  # processes that read and cut images; 0: threads

    config.head = "pup"  # "naive", "pup" or "mla"
    config.blocks = ()  # that the head reads; (): the paper's, for the encoder's depth
    config.auxiliary_blocks = ()  # of the auxiliary heads; (): the paper's
    config.auxiliary_weight = 0.4  # of each of their losses; 0 is for none
    config.frozen = False  # the encoder stays as it is; the head alone is trained
    config.drop_path = 0.0
    config.remat = "none"  # or "attention", "block": less memory, as model.remat in pre-training

    config.steps = 40_000
    config.train_batch_size = 8
    # Or "adamw", with SegFormer's rates and decay; its schedule stays SETR's, poly 0.9, where
    # SegFormer's is poly 1.0 behind a warm-up.
    config.optimizer = "sgd"
    # None: 0.01, of "mla" 0.002, of AdamW 6e-5.
    config.learning_rate = placeholder(float)
    config.head_rate = 10.0  # times the encoder's
    config.end_learning_rate = placeholder(float)  # None: 1e-4, of AdamW 0
    config.loss_over = "all"  # void pixels count in the mean of the loss; "valid": they do not

    # (short, long) side that an image is made to fit before it is scaled; (): its own size.
    config.base_size = (1025, 2049)
    config.scale = (0.5, 2.0)  # drawn for every crop
    config.max_share = 0.75  # of a crop's pixels that one class may have
    config.photometric = True  # brightness, contrast, saturation, hue

    # Between windows; (height, width), or one number.
    config.stride = FieldReference(512, field_type=object)
    config.scales = (1.0,)  # of the images in the last validation; several are measured besides
    config.flip = False  # sees them mirrored, too
    config.validate_every_steps = 4000  # 0: after the last step only
    config.pictures = 8  # validation images to draw
    config.save_every_steps = 1000
    config.keep_checkpoints = 1  # newest ones; the best is kept besides
    config.log_every_steps = 50
    return config


def smoke(config: ConfigDict) -> None:
    """A few steps on small crops."""
    config.update({"image_size": 64, "stride": 48, "head": "naive", "steps": 4})
    config.update({"train_batch_size": 8, "base_size": (), "pictures": 1})
    config.update({"validate_every_steps": 0, "save_every_steps": 2, "log_every_steps": 1})
