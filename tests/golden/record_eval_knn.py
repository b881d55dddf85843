"""Records eval_knn.npz: predictions and accuracies of DINO's weighted k-NN.

Command (from the repository's root, with the official repository checked out):
    PYTHONPATH=tests python -m golden.record_eval_knn DINO_CHECKOUT

Source: facebookresearch/dino 7c446df5b9f45747937fb0d72314eb9f7b66930a, eval_knn.py
(knn_classifier).
Versions: Python 3.11, torch 2.13.0 (CPU), torchvision 0.28.0, numpy 2.4.6; float32.
Shims: golden/official.py says which and why. The function returns accuracies only; its
predictions are what it hands to ``Tensor.eq``, which is watched.

Keys: ``<k>/predictions`` int [queries, classes], best first; ``<k>/top1``, ``<k>/top5`` in percent.
"""

import sys

import numpy as np
import torch
from golden import official
from golden.cases_probe import KNN, NEIGHBOURS, TEMPERATURE, knn_features


def main() -> None:
    official.use_checkout(sys.argv[1])
    import eval_knn

    seen = []
    compare = torch.Tensor.eq

    def watched(self, other):
        seen.append(self.numpy().copy())
        return compare(self, other)

    data = {name: torch.tensor(array) for name, array in knn_features().items()}
    arrays = {}
    for k in NEIGHBOURS:
        seen.clear()
        torch.Tensor.eq = watched
        top1, top5 = eval_knn.knn_classifier(
            data["train_features"],
            data["train_labels"],
            data["test_features"],
            data["test_labels"],
            k,
            TEMPERATURE,
            num_classes=KNN["classes"],
        )
        torch.Tensor.eq = compare
        arrays[f"{k}/predictions"] = np.concatenate(seen).astype(np.int8)
        arrays[f"{k}/top1"], arrays[f"{k}/top5"] = np.float64(top1), np.float64(top5)
    official.save("eval_knn.npz", arrays)


if __name__ == "__main__":
    main()
