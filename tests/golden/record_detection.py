"""Records detection.npz: what two detectors of detectron2 compute, each on two images.

Command (from the repository's root, with detectron2 checked out and fvcore, iopath, yacs,
omegaconf, hydra-core, cloudpickle, termcolor, tabulate and portalocker installed):
    PYTHONPATH=.:tests python -m golden.record_detection DETECTRON2_CHECKOUT

Source: facebookresearch/detectron2 02b5c4e295e990042a714712c21dc79b731e8833, built as
configs/common/models/mask_rcnn_vitdet.py builds it, smaller, and as mask_rcnn_fpn.py does on the
Swin of modeling/backbone/swin.py.
Versions: Python 3.11, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6; float32.
Shims: detectron2's compiled operators, of which nothing here is one, are an empty module. Two
samples a bin of RoIAlign in place of as many as it has cells, as here.

Keys, after ``vit/`` or ``swin/``: ``shape/<name>`` of detectron2's state dict, whose values are
``detection_cases.weight``; ``level/<k>`` of the pyramid, of the first image; ``loss/<name>`` of a
training step on everything that can be sampled; ``gradient/<name>`` of the sum of all losses but
that of the masks; ``found/<image>/{boxes,scores,classes,masks}`` the detections, the masks of the
first 10 before they are pasted. ``vit/map`` [2, 8, 8, D] is the ViT's.
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
    OF_SWIN_IMAGE,
    PATCH,
    POSITIONS,
    PROPOSALS,
    REGIONS_SAMPLED,
    SIDE,
    SIZES,
    SWIN_DEPTHS,
    SWIN_HEADS,
    SWIN_SIZES,
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
GRADIENTS = {
    "vit": (
        "backbone.net.pos_embed",
        "backbone.net.blocks.0.attn.rel_pos_h",
        "backbone.net.blocks.4.attn.rel_pos_w",
        "backbone.net.blocks.3.mlp.fc1.weight",
        "backbone.simfp_2.3.weight",
        "proposal_generator.rpn_head.conv.conv0.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    ),
    "swin": (
        "backbone.bottom_up.patch_embed.proj.weight",
        "backbone.bottom_up.layers.0.blocks.1.attn.relative_position_bias_table",
        "backbone.bottom_up.norm2.weight",
        "backbone.fpn_lateral4.weight",
        "proposal_generator.rpn_head.conv.weight",
        "roi_heads.box_head.fc1.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    ),
}


def vit_pyramid():
    """ViTDet's backbone."""
    from detectron2.modeling import SimpleFeaturePyramid, ViT
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

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
    return SimpleFeaturePyramid(
        net,
        in_feature="last_feat",
        out_channels=CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=SIDE,
    )


def swin_pyramid():
    """FPN on a Swin."""
    from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
    from detectron2.modeling.backbone.swin import SwinTransformer

    net = SwinTransformer(
        embed_dim=SWIN_WIDTH,
        depths=SWIN_DEPTHS,
        num_heads=SWIN_HEADS,
        window_size=SWIN_WINDOW,
        drop_path_rate=0.0,
    )
    return FPN(net, [f"p{k}" for k in range(4)], CHANNELS, top_block=LastLevelMaxPool())


def model(backbone, *, deep: bool):
    """detectron2's detector, its heads deep and with norms or plain."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
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

    levels = ["p2", "p3", "p4", "p5"]
    norm = "LN" if deep else ""

    def pooler(size):
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        return ROIPooler(size, scales, sampling_ratio=2, pooler_type="ROIAlignV2")

    return GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=RPN(
            in_features=[*levels, "p6"],
            head=StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[-1] * (1 + deep)),
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
                conv_dims=[CHANNELS] * 2 if deep else [],
                fc_dims=[UNITS] * (1 if deep else 2),
                conv_norm=norm,
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
                conv_norm=norm,
            ),
        ),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        input_format="RGB",
    )


def inputs(images, sizes, of_image) -> list[dict]:
    """Images and objects as detectron2 takes them."""
    from detectron2.structures import BitMasks, Boxes, Instances

    found = []
    for image, (height, width), numbers in zip(images, sizes, of_image, strict=True):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([OBJECTS[k][0] for k in numbers]))
        instances.gt_classes = torch.tensor([OBJECTS[k][1] for k in numbers])
        bitmaps = np.stack([bitmap(k, images.shape[1:3])[:height, :width] for k in numbers])
        instances.gt_masks = BitMasks(torch.from_numpy(bitmaps))
        pixels = torch.from_numpy(image[:height, :width].transpose(2, 0, 1).copy())
        found.append({"image": pixels, "instances": instances, "height": height, "width": width})
    return found


def recorded(name: str, detector, batch: list[dict]) -> dict[str, np.ndarray]:
    """What a detector computes of a batch, by key without the detector's name."""
    from detectron2.utils.events import EventStorage

    state = detector.state_dict()
    named = [parameter for parameter, _ in detector.named_parameters()]
    arrays = {f"shape/{parameter}": np.array(state[parameter].shape) for parameter in named}
    values = {p: torch.from_numpy(weight(p, tuple(state[p].shape))) for p in named}
    detector.load_state_dict(values, strict=False)
    with EventStorage(0):
        losses = detector.train()(batch)
    arrays |= {f"loss/{key}": value.detach().numpy() for key, value in losses.items()}
    sum(value for key, value in losses.items() if key != "loss_mask").backward()
    own = dict(detector.named_parameters())
    arrays |= {f"gradient/{key}": own[key].grad.numpy() for key in GRADIENTS[name]}
    detector.eval()
    with torch.no_grad():
        pixels = detector.preprocess_image(batch).tensor
        if name == "vit":
            last = detector.backbone.net(pixels)["last_feat"]
            arrays["map"] = last.permute(0, 2, 3, 1).numpy()
        for k, level in enumerate(detector.backbone(pixels).values()):
            # Of the Swin's finest every other vector, for the size of the file.
            apart = 2 if (name, k) == ("swin", 0) else 1
            arrays[f"level/{k}"] = level.permute(0, 2, 3, 1).numpy()[:1, ::apart, ::apart]
        for number, found in enumerate(detector.inference(batch, do_postprocess=False)):
            arrays[f"found/{number}/boxes"] = found.pred_boxes.tensor.numpy()
            arrays[f"found/{number}/scores"] = found.scores.numpy()
            arrays[f"found/{number}/classes"] = found.pred_classes.numpy()
            arrays[f"found/{number}/masks"] = found.pred_masks[:10, 0].numpy()
            print(name, len(found), "detections")
    for key, value in losses.items():
        print(name, key, float(value))
    return arrays


def main() -> None:
    # Not golden.official: it declares operators that this build of torchvision has.
    sys.path.insert(0, sys.argv[1])
    sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
    import detectron2

    detectron2._C = sys.modules["detectron2._C"]
    of_vit = model(vit_pyramid(), deep=True), inputs(images(), SIZES, OF_IMAGE)
    of_swin = (
        model(swin_pyramid(), deep=False),
        inputs(swin_images(), SWIN_SIZES, OF_SWIN_IMAGE),
    )
    arrays = {}
    for name, parts in {"vit": of_vit, "swin": of_swin}.items():
        arrays |= {f"{name}/{key}": value for key, value in recorded(name, *parts).items()}
    np.savez_compressed(Path(__file__).with_name("detection.npz"), **arrays)


if __name__ == "__main__":
    main()
