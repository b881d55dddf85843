"""Records dense.npz: label propagation and dense nearest neighbours by their authors' code.

Command (from the repository's root, with the two repositories checked out):
    PYTHONPATH=tests python -m golden.record_dense DINO_CHECKOUT HUMMINGBIRD_CHECKOUT

Sources: facebookresearch/dino 7c446df5b9f45747937fb0d72314eb9f7b66930a, eval_video_segmentation.py
(eval_video_tracking_davis and all that it calls); vpariza/open-hummingbird-eval
5e79da292730edded800a89828b84f38469f5476, hbird/hbird_eval.py (HbirdEvaluation).
Versions: Python 3.11, torch 2.14.1 (CPU), numpy 2.4.6; float32.
Shims: golden/official.py says which and why. Features are given in place of a network, frames by
their numbers in place of files; what is written as a PNG is kept. The index of Hummingbird is an
exact search. Its uniform draws are given.

Keys: ``propagation/soft`` [T - 1, N, C], ``propagation/classes`` uint8 [T - 1, H, W],
``dense/sampled`` int [n, K], ``dense/votes`` [n, N, C], ``dense/classes`` uint8 [n, H, W].
"""

import sys
import types

import numpy as np
import torch
from golden import official
from golden.cases_dense import (
    DENSE,
    DENSE_NEIGHBOURS,
    PROPAGATION,
    VIDEO,
    draws,
    pairs,
    video,
)


def propagation() -> dict[str, np.ndarray]:
    """What the official script makes of the video."""
    official.stub_module("torchvision", transforms=None)
    official.stub_module("utils")
    official.stub_module("vision_transformer")
    import eval_video_segmentation as code

    features, first = video()
    rows, columns = VIDEO["grid"]
    args = types.SimpleNamespace(
        n_last_frames=PROPAGATION["frames"],
        size_mask_neighborhood=PROPAGATION["radius"],
        topk=PROPAGATION["neighbours"],
        patch_size=VIDEO["patch"],
        output_dir="/tmp",
    )
    code.args = args
    soft, written = [], []

    def extract_feature(model, frame, return_h_w=False):
        out = torch.tensor(features[frame]).reshape(rows * columns, -1)
        return (out, rows, columns) if return_h_w else out

    def watched(*arguments):
        found = label_propagation(*arguments)
        soft.append(found[0][0].reshape(VIDEO["classes"], -1).T.numpy().copy())
        return found

    label_propagation = code.label_propagation
    code.extract_feature, code.label_propagation = extract_feature, watched
    code.read_frame = lambda name: (int(name.split(".")[0]), *VIDEO["size"])
    code.imwrite_indexed = lambda name, array, colours: written.append(np.array(array))
    one_hot = code.to_one_hot(torch.tensor(first).float().unsqueeze(0))
    frames = [f"{t}.jpg" for t in range(VIDEO["frames"])]
    code.eval_video_tracking_davis(args, None, frames, "video", one_hot, first, None)
    return {"propagation/soft": np.stack(soft), "propagation/classes": np.stack(written[1:])}


def dense() -> dict[str, np.ndarray]:
    """What Hummingbird makes of the pairs."""
    official.stub_module("hbird.models", FeatureExtractor=None, FeatureExtractorSimple=None)
    official.stub_module("hbird.data", get_dataset=None)
    official.stub_module(
        "hbird.utils.transforms", get_hbird_val_transforms=None, get_hbird_train_transforms=None
    )
    official.stub_module("hbird.utils.image_transformations", CombTransforms=None)
    from hbird import hbird_eval as code

    side = DENSE["side"]

    class Extractor(torch.nn.Module):
        eval_spatial_resolution, d_model = side, DENSE["width"]

        def forward_features(self, x):
            split = "train" if x[0, 0, 0, 0] == 0 else "val"
            return torch.tensor(pairs(split)[0]), None

    def loader(split):
        labels = pairs(split)[1]
        images = torch.full((len(labels), 3, *labels.shape[1:]), float(split == "val"))
        return [(images, torch.tensor(labels)[:, None] / 255)]

    class Exact:
        def __init__(self, memory):
            self.memory = memory

        def find_nearest_neighbors(self, queries):
            similarity = queries @ self.memory.T
            found = torch.topk(similarity, DENSE_NEIGHBOURS, dim=1)
            return found.indices.numpy(), found.values.numpy()

    def create_nn(self, *args, **kwargs):
        self.NN_algorithm = Exact(self.feature_memory)

    def sample(self, *arguments):
        found = sample_features(self, *arguments)
        sampled.append(found[1].numpy().copy())
        return found

    def update(self, truth, given):
        classes.append(given[:, 0].numpy().astype(np.uint8))
        return count(self, truth, given)

    sampled, classes = [], []
    code.HbirdEvaluation._create_nn = create_nn
    sample_features, code.HbirdEvaluation._sample_features = (
        code.HbirdEvaluation._sample_features,
        sample,
    )
    count, code.PredsmIoU.update = code.PredsmIoU.update, update
    uniform = torch.tensor(draws()).flatten()
    rand, torch.rand = torch.rand, lambda number: uniform[:number]
    evaluation = code.HbirdEvaluation(
        Extractor(),
        loader("train"),
        num_classes=DENSE["classes"],
        n_neighbours=DENSE_NEIGHBOURS,
        memory_size=DENSE["memory"],
        dataset_size=DENSE["train"],
    )
    torch.rand = rand
    _, details = evaluation.evaluate(loader("val"), side, return_knn_details=True)
    return {
        "dense/sampled": np.concatenate(sampled).astype(np.int16),
        "dense/votes": details["knns_ca_labels"].numpy(),
        "dense/classes": np.concatenate(classes),
    }


def main() -> None:
    for checkout in sys.argv[1:3]:
        official.use_checkout(checkout)
    official.save("dense.npz", propagation() | dense())


if __name__ == "__main__":
    main()
