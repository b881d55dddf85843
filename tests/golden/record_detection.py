"""Records detection.npz: what detectron2's ViTDet computes on two images.

Command (from the repository's root, with detectron2 checked out and fvcore, iopath, yacs,
omegaconf, hydra-core, cloudpickle, termcolor, tabulate and portalocker installed):
    PYTHONPATH=.:tests python -m golden.record_detection DETECTRON2_CHECKOUT

Source: facebookresearch/detectron2 02b5c4e295e990042a714712c21dc79b731e8833, built as
configs/common/models/mask_rcnn_vitdet.py builds it, smaller.
Versions: Python 3.11, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6; float32.
Shims: detectron2's compiled operators, of which nothing here is one, are an empty module. Two
samples a bin of RoIAlign in place of as many as it has cells, as here.

Keys: ``shape/<name>`` of detectron2's state dict, whose values are ``detection_cases.weight``;
``map`` [2, 8, 8, D] is the ViT's; ``level/<k>`` the pyramid's, of the first image;
``loss/<name>`` of a training step on everything that can be sampled; ``gradient/<name>`` of the sum
of all losses but that of the masks; ``found/<image>/{boxes,scores,classes,masks}`` the detections,
the masks of the first 10 before they are pasted; ``swin_shape/<name>`` and ``swin_level/<k>`` are
of FPN on its Swin (modeling/backbone/swin.py).
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch
from golden.detection_cases import (
    ANCHORS_SAMPLED,
    BEFORE_SUPPRESSION,
    CHANNELS,
    CLASSES,
    DEPTH,
    GLOBAL_BLOCKS,
    HEADS,
    OBJECTS,
    OF_IMAGE,
    PATCH,
    POSITIONS,
    PROPOSALS,
    REGIONS_SAMPLED,
    SIDE,
    SIZES,
    SWIN_DEPTHS,
    SWIN_HEADS,
    SWIN_WIDTH,
    SWIN_WINDOW,
    UNITS,
    WIDTH,
    WINDOW,
    bitmap,
    images,
    swin_images,
    weight,
)

# Of whose gradients are kept: the ends of what is trained.
GRADIENTS = (
    "backbone.net.pos_embed",
    "backbone.net.blocks.0.attn.rel_pos_h",
    "backbone.net.blocks.4.attn.rel_pos_w",
    "backbone.net.blocks.3.mlp.fc1.weight",
    "backbone.simfp_2.3.weight",
    "proposal_generator.rpn_head.conv.conv0.weight",
    "roi_heads.box_predictor.bbox_pred.weight",
)


def model():
    """detectron2's detector."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import GeneralizedRCNN, SimpleFeaturePyramid, ViT
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
    from detectron2.modeling.roi_heads import (
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        MaskRCNNConvUpsampleHead,
        StandardROIHeads,
    )

    net = ViT(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        drop_path_rate=0.0,
        window_size=WINDOW,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        window_block_indexes=[k for k in range(DEPTH) if k not in GLOBAL_BLOCKS],
        use_rel_pos=True,
        pretrain_img_size=POSITIONS * PATCH,
        out_feature="last_feat",
    )
    levels = ["p2", "p3", "p4", "p5"]

    def pooler(size):
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        return ROIPooler(size, scales, sampling_ratio=2, pooler_type="ROIAlignV2")

    return GeneralizedRCNN(
        backbone=SimpleFeaturePyramid(
            net,
            in_feature="last_feat",
            out_channels=CHANNELS,
            scale_factors=(4.0, 2.0, 1.0, 0.5),
            top_block=LastLevelMaxPool(),
            norm="LN",
            square_pad=SIDE,
        ),
        proposal_generator=RPN(
            in_features=[*levels, "p6"],
            head=StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[-1, -1]),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[[32], [64], [128], [256], [512]],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform(weights=[1.0] * 4),
            batch_size_per_image=ANCHORS_SAMPLED,
            positive_fraction=0.5,
            pre_nms_topk=BEFORE_SUPPRESSION,
            post_nms_topk=(PROPOSALS, PROPOSALS),
            nms_thresh=0.7,
        ),
        roi_heads=StandardROIHeads(
            num_classes=CLASSES,
            batch_size_per_image=REGIONS_SAMPLED,
            positive_fraction=0.25,
            proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
            box_in_features=levels,
            box_pooler=pooler(7),
            box_head=FastRCNNConvFCHead(
                ShapeSpec(channels=CHANNELS, height=7, width=7),
                conv_dims=[CHANNELS] * 2,
                fc_dims=[UNITS],
                conv_norm="LN",
            ),
            box_predictor=FastRCNNOutputLayers(
                ShapeSpec(channels=UNITS),
                box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
                num_classes=CLASSES,
                test_score_thresh=0.05,
            ),
            mask_in_features=levels,
            mask_pooler=pooler(14),
            mask_head=MaskRCNNConvUpsampleHead(
                ShapeSpec(channels=CHANNELS, height=14, width=14),
                num_classes=CLASSES,
                conv_dims=[CHANNELS] * 3,
                conv_norm="LN",
            ),
        ),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        input_format="RGB",
    )


def inputs() -> list[dict]:
    """Images and objects as detectron2 takes them."""
    from detectron2.structures import BitMasks, Boxes, Instances

    found = []
    for image, (height, width), numbers in zip(images(), SIZES, OF_IMAGE, strict=True):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([OBJECTS[k][0] for k in numbers]))
        instances.gt_classes = torch.tensor([OBJECTS[k][1] for k in numbers])
        bitmaps = np.stack([bitmap(k)[:height, :width] for k in numbers])
        instances.gt_masks = BitMasks(torch.from_numpy(bitmaps))
        pixels = torch.from_numpy(image[:height, :width].transpose(2, 0, 1).copy())
        found.append({"image": pixels, "instances": instances, "height": height, "width": width})
    return found


def swin_arrays() -> dict[str, np.ndarray]:
    """Levels of FPN on a Swin."""
    from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
    from detectron2.modeling.backbone.swin import SwinTransformer

    net = SwinTransformer(
        embed_dim=SWIN_WIDTH,
        depths=SWIN_DEPTHS,
        num_heads=SWIN_HEADS,
        window_size=SWIN_WINDOW,
        drop_path_rate=0.0,
    )
    stages = [f"p{k}" for k in range(4)]
    pyramid = FPN(net, stages, CHANNELS, top_block=LastLevelMaxPool()).eval()
    shapes = {name: tuple(value.shape) for name, value in pyramid.named_parameters()}
    values = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
    pyramid.load_state_dict(values, strict=False)
    with torch.no_grad():
        levels = pyramid(torch.from_numpy(swin_images().transpose(0, 3, 1, 2).copy()))
    arrays = {f"swin_shape/{name}": np.array(shape) for name, shape in shapes.items()}
    for k, level in enumerate(levels.values()):
        # Of the finest every other vector, for the size of the file.
        apart = 2 if k == 0 else 1
        arrays[f"swin_level/{k}"] = level.permute(0, 2, 3, 1).numpy()[:, ::apart, ::apart]
    return arrays


def main() -> None:
    # Not golden.official: it declares operators that this build of torchvision has.
    sys.path.insert(0, sys.argv[1])
    sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
    import detectron2
    from detectron2.utils.events import EventStorage

    detectron2._C = sys.modules["detectron2._C"]
    detector, batch, arrays = model(), inputs(), {}
    state = detector.state_dict()
    named = [name for name, _ in detector.named_parameters()]
    arrays |= {f"shape/{name}": np.array(state[name].shape) for name in named}
    values = {name: torch.from_numpy(weight(name, tuple(state[name].shape))) for name in named}
    detector.load_state_dict(values, strict=False)
    with EventStorage(0):
        losses = detector.train()(batch)
    arrays |= {f"loss/{name}": value.detach().numpy() for name, value in losses.items()}
    sum(value for name, value in losses.items() if name != "loss_mask").backward()
    own = dict(detector.named_parameters())
    arrays |= {f"gradient/{name}": own[name].grad.numpy() for name in GRADIENTS}
    detector.eval()
    with torch.no_grad():
        pixels = detector.preprocess_image(batch).tensor
        last = detector.backbone.net(pixels)["last_feat"]
        arrays["map"] = last.permute(0, 2, 3, 1).numpy()
        for k, level in enumerate(detector.backbone(pixels).values()):
            arrays[f"level/{k}"] = level.permute(0, 2, 3, 1).numpy()[:1]
        for number, found in enumerate(detector.inference(batch, do_postprocess=False)):
            arrays[f"found/{number}/boxes"] = found.pred_boxes.tensor.numpy()
            arrays[f"found/{number}/scores"] = found.scores.numpy()
            arrays[f"found/{number}/classes"] = found.pred_classes.numpy()
            arrays[f"found/{number}/masks"] = found.pred_masks[:10, 0].numpy()
    arrays |= swin_arrays()
    np.savez_compressed(Path(__file__).with_name("detection.npz"), **arrays)
    for name, value in losses.items():
        print(name, float(value))
    print(len(found), "detections in the last image")


if __name__ == "__main__":
    main()
