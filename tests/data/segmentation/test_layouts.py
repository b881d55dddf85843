"""Sets of segmentation: what is read, what the ids mean, and what is refused."""

import io
import pickle

import cv2
import numpy as np
import pytest
from dense_sets import camvid_folder, save_with_palette, scene
from PIL import Image

from repre_jax.data.segmentation.label_maps import VOID, decode_label_map, palette
from repre_jax.data.segmentation.layouts import CITYSCAPES_IDS, open_segmentation
from repre_jax.data.sources.decode import BadImage
from repre_jax.errors import UserError
from repre_jax.evaluation import defaults


def opened(root, layout, **keys):
    data = defaults.segmentation_data()
    data.update({"layout": layout, "path": str(root)} | keys)
    return open_segmentation(data, 3)


def told(root, layout, **keys):
    with pytest.raises(UserError) as error:
        opened(root, layout, **keys)
    return str(error.value)


def picture(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def test_camvid(tmp_path):
    train, val = opened(camvid_folder(tmp_path), "camvid")
    assert (len(train), len(val), len(train.class_names)) == (6, 5, 11)
    image, label = val.read_pair(0)
    np.testing.assert_array_equal(image, scene(100)[0])
    assert set(np.unique(label)) == {0, 3, 8, VOID}
    assert (label[:, -1] == VOID).all()
    assert train.fingerprint != val.fingerprint
    again = opened(tmp_path, "camvid")[1]
    assert again.fingerprint == val.fingerprint
    first = tmp_path / "labels" / "val" / "0016E5_07000.png"
    cv2.imwrite(str(first), np.zeros((24, 32), np.uint8))
    assert opened(tmp_path, "camvid")[1].fingerprint != val.fingerprint, "labels are of the set"


def test_voc_has_palettes(tmp_path):
    label = np.array([[0, 1, 20], [255, 5, 5]], np.uint8)
    for split, name in (("train", "a"), ("val", "b")):
        lists = tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text(f"{name}\n")
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((2, 3, 3), np.uint8))
        save_with_palette(tmp_path / "SegmentationClass" / f"{name}.png", label)
    _, val = opened(tmp_path, "voc")
    np.testing.assert_array_equal(val.read_label(0), label)
    assert val.class_names[20] == "tvmonitor" and val.name_of(0).endswith("b.jpg")
    assert "is missing" in told(tmp_path / "JPEGImages", "voc")


def test_ade20k_ids_begin_at_one(tmp_path):
    for split in ("training", "validation"):
        picture(tmp_path / "images" / split / "a.jpg", np.zeros((1, 3, 3), np.uint8))
        picture(tmp_path / "annotations" / split / "a.png", np.array([[0, 1, 150]], np.uint8))
    train, _ = opened(tmp_path, "ade20k")
    np.testing.assert_array_equal(train.read_label(0), [[VOID, 0, 149]])


@pytest.mark.parametrize("made", [False, True])
def test_cityscapes_with_and_without_train_ids(tmp_path, made):
    for split in ("train", "val"):
        picture(
            tmp_path / "leftImg8bit" / split / "ulm" / "ulm_0_leftImg8bit.png",
            np.zeros((1, 4, 3), np.uint8),
        )
        below = tmp_path / "gtFine" / split / "ulm"
        ids, train_ids = np.array([[7, 33, 0, 255]]), np.array([[0, 18, 255, 255]])
        picture(below / "ulm_0_gtFine_labelIds.png", ids.astype(np.uint8))
        if made:
            picture(below / "ulm_0_gtFine_labelTrainIds.png", train_ids.astype(np.uint8))
    train, _ = opened(tmp_path, "cityscapes")
    np.testing.assert_array_equal(train.read_label(0), [[0, 18, VOID, VOID]])
    assert train.class_names[18] == "bicycle"
    assert len(CITYSCAPES_IDS.ids) == 19


def test_any_two_folders(tmp_path):
    for split in ("training", "validation"):
        picture(tmp_path / "img" / split / "x" / "a.jpg", np.zeros((1, 3, 3), np.uint8))
        picture(tmp_path / "map" / split / "x" / "a.png", np.array([[0, 1, 9]], np.uint8))
    keys = {"images": "img", "labels": "map", "classes": 2, "ignore": (9,)}
    train, _ = opened(tmp_path, "folder", **keys)
    np.testing.assert_array_equal(train.read_label(0), [[0, 1, VOID]])
    with pytest.raises(UserError, match="has the id 9, which is none of the 2 classes"):
        opened(tmp_path, "folder", **keys | {"ignore": ()})[0].read_label(0)
    assert "data.classes=0 must be from 2" in told(tmp_path, "folder", **keys | {"classes": 0})
    assert "names a class" in told(tmp_path, "folder", **keys | {"ignore": (1,)})
    assert "set data.labels to its name" in told(tmp_path, "folder", **keys | {"labels": "maps"})


def test_mistakes(tmp_path):
    root = camvid_folder(tmp_path / "set")
    assert "data.layout='coco' must be one of camvid, voc" in told(root, "coco")
    assert "data.path is empty" in told("", "camvid")
    assert "is no folder" in told(tmp_path / "none", "camvid")
    assert "data.classes is given" in told(root, "camvid", classes=4)
    for layout in ("camvid", "voc", "ade20k", "cityscapes"):
        for key in ("images", "labels"):
            words = f"data.{key} is given, and data.layout={layout} knows its folders"
            assert words in told(root, layout, **{key: "mine"})
    (root / "labels" / "val" / "0016E5_07002.png").unlink()
    assert "1 of 5 images have no map of labels; missing are labels/val/0016E5_07002" in told(
        root, "camvid"
    )


def test_a_map_of_another_size_is_a_bad_image(tmp_path):
    root = camvid_folder(tmp_path)
    picture(root / "labels" / "train" / "0016E5_07000.png", np.zeros((24, 30), np.uint8))
    train, _ = opened(root, "camvid")
    with pytest.raises(BadImage, match="24 x 32 pixels, and its map 24 x 30"):
        train.read_pair(0)


def test_grey_maps_of_few_bits_are_ids(tmp_path):
    """Pillow stretches 4 bits over 0 to 255; what is stored counts."""
    ids = np.array([[0, 1, 2, 15]], np.uint8)
    path = tmp_path / "four.png"
    Image.fromarray(ids * 17).save(path, bits=4)
    if np.asarray(Image.open(path)).max() == 255:
        path.write_bytes(_four_bits(ids))
    np.testing.assert_array_equal(decode_label_map(path.read_bytes(), "four"), ids)


def _four_bits(ids):
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)
    row = bytes([0, ids[0, 0] << 4 | ids[0, 1], ids[0, 2] << 4 | ids[0, 3]])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


def test_pictures_in_colour_are_no_maps(tmp_path):
    picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(BadImage, match="mode RGB"):
        decode_label_map((tmp_path / "a.png").read_bytes(), "a")


def test_palette_is_that_of_voc():
    assert palette(4).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert len(np.unique(palette(256), axis=0)) == 256


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two sets that TFDS has prepared; one is called as a known one."""
    import tensorflow_datasets as tfds

    class Maps(tfds.core.GeneratorBasedBuilder):
        __module__ = "maps"  # tfds looks for a package behind a name with dots
        VERSION = tfds.core.Version("1.0.0")
        ids = (0, 1, 9)
        features: dict

        def _info(self):
            features = tfds.features.FeaturesDict(self.features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples(3), "validation": self._generate_examples(2)}

        def _generate_examples(self, count):
            image, label = self.features
            for number in range(count):
                pixels = np.full((2, 3, 3), 20 * number, np.uint8)
                ids = np.array([self.ids, self.ids[::-1]], np.uint8)
                if number == 2:
                    ids = ids[:1]
                encoded = [cv2.imencode(".png", x)[1].tobytes() for x in (pixels, ids)]
                yield number, dict(zip((image, label), map(io.BytesIO, encoded), strict=True))

    colours, grey = (tfds.features.Image(shape=(None, None, n)) for n in (3, 1))

    class Places(Maps):
        __module__ = "maps"
        features = {"image": colours, "segmentation_mask": grey}  # noqa: RUF012

    class Cityscapes(Maps):
        __module__ = "maps"
        ids = (7, 8, 0)
        features = {"image_left": colours, "segmentation_label": grey}  # noqa: RUF012

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Places, Cityscapes):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds(prepared):
    keys = {"name": "places", "classes": 2, "ignore": (9,)}
    train, val = opened(prepared, "tfds", **keys)
    assert (len(train), len(val)) == (3, 2) and train.fingerprint != val.fingerprint
    image, label = val.read_pair(1)
    assert (image == 20).all() and image.shape == (2, 3, 3)
    np.testing.assert_array_equal(label, [[0, 1, VOID], [VOID, 1, 0]])
    damaged = 0
    for index in range(3):
        try:
            train.read_pair(index)
        except BadImage as error:
            damaged += error.path == train.name_of(index)
    assert damaged == 1, "one map has another size than its image"
    copy = pickle.loads(pickle.dumps(val))
    np.testing.assert_array_equal(copy.read_label(0), val.read_label(0))
    other = opened(prepared, "tfds", **keys | {"ignore": (9, 10)})[1]
    assert other.fingerprint != val.fingerprint
    with pytest.raises(UserError, match="segmentation_mask has the id 9"):
        opened(prepared, "tfds", **keys | {"ignore": ()})[1].read_label(0)
    swapped = opened(prepared, "tfds", **keys, images="segmentation_mask")[1]
    assert (swapped.read(0)[..., 0] < 20).all()


def test_tfds_knows_the_ids_of_cityscapes(prepared):
    _, val = opened(prepared, "tfds", name="cityscapes")
    np.testing.assert_array_equal(val.read_label(0), [[0, 1, VOID], [VOID, 1, 0]])
    assert val.class_names[:2] == ("road", "sidewalk")
    assert "knows its classes" in told(prepared, "tfds", name="cityscapes", classes=19)
    assert "is not prepared" in told(prepared, "tfds", name="ade", classes=2)
    assert "data.classes=0 must be" in told(prepared, "tfds", name="places")
    assert "data.name=places is of data.layout=tfds" in told(prepared, "voc", name="places")
