"""EEEA-Net-C2 and OFA-595, two sub-networks of the Once-for-All MobileNetV3 space, as timm models.

Both are built from timm's MobileNetV3 blocks; they differ from MobileNetV3 in depth, kernel sizes and expansion ratios,
and in a head convolution without bias. Sources: EEEA-Net (Termritthikun et al. 2021, arXiv 2108.06156, network C2) and
Once-for-All (Cai et al. 2020, `flops@595M_top1@80.0_finetune@75`).
"""

from functools import partial
from typing import Any

from timm.models._builder import build_model_with_cfg, pretrained_cfg_for_features
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models._registry import generate_default_cfgs, register_model
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

# One line per stage. `nre` is ReLU, `nhs` is hard-swish; squeeze-excitation in stages 2, 4 and 5.
_EEEA_NET_C2 = [
    ["ds_r1_k3_s1_e1_c16_nre"],
    ["ir_r1_k3_s2_e3_c24_nre", "ir_r1_k5_s1_e4_c24_nre", "ir_r1_k3_s1_e3_c24_nre"],
    ["ir_r1_k7_s2_e4_c40_se0.25_nre", "ir_r1_k3_s1_e3_c40_se0.25_nre", "ir_r1_k7_s1_e3_c40_se0.25_nre"],
    ["ir_r1_k5_s2_e6_c80_nhs", "ir_r1_k7_s1_e6_c80_nhs", "ir_r1_k5_s1_e3_c80_nhs", "ir_r1_k3_s1_e3_c80_nhs"],
    [
        "ir_r1_k7_s1_e6_c112_se0.25_nhs",
        "ir_r1_k5_s1_e4_c112_se0.25_nhs",
        "ir_r1_k3_s1_e3_c112_se0.25_nhs",
        "ir_r1_k3_s1_e3_c112_se0.25_nhs",
    ],
    [
        "ir_r1_k5_s2_e6_c160_se0.25_nhs",
        "ir_r1_k3_s1_e6_c160_se0.25_nhs",
        "ir_r1_k5_s1_e6_c160_se0.25_nhs",
        "ir_r1_k7_s1_e3_c160_se0.25_nhs",
    ],
    ["cn_r1_k1_s1_c960"],
]
_OFA_595 = [
    ["ds_r1_k3_s1_e1_c24_nre"],
    ["ir_r1_k3_s2_e3_c32_nre", "ir_r1_k5_s1_e4_c32_nre", "ir_r1_k3_s1_e3_c32_nre"],
    [
        "ir_r1_k5_s2_e4_c48_se0.25_nre",
        "ir_r1_k5_s1_e4_c48_se0.25_nre",
        "ir_r1_k3_s1_e6_c48_se0.25_nre",
        "ir_r1_k5_s1_e3_c48_se0.25_nre",
    ],
    ["ir_r1_k7_s2_e6_c96_nhs", "ir_r1_k5_s1_e6_c96_nhs", "ir_r1_k3_s1_e3_c96_nhs", "ir_r1_k5_s1_e4_c96_nhs"],
    [
        "ir_r1_k3_s1_e6_c136_se0.25_nhs",
        "ir_r1_k5_s1_e6_c136_se0.25_nhs",
        "ir_r1_k7_s1_e6_c136_se0.25_nhs",
        "ir_r1_k3_s1_e4_c136_se0.25_nhs",
    ],
    [
        "ir_r1_k3_s2_e6_c192_se0.25_nhs",
        "ir_r1_k3_s1_e6_c192_se0.25_nhs",
        "ir_r1_k5_s1_e6_c192_se0.25_nhs",
        "ir_r1_k3_s1_e3_c192_se0.25_nhs",
    ],
    ["cn_r1_k1_s1_c1152"],
]

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, size, size),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": licence,
            "paper_ids": paper,
        }
        for name, size, licence, paper in (
            ("eeea_net_c2.untrained", 224, "apache-2.0", "arXiv:2108.06156"),
            ("ofa_595.untrained", 224, "mit", "arXiv:1908.09791"),
        )
    }
)

# What timm's feature extractor has no place for.
_HEAD_ARGUMENTS = ("num_classes", "num_features", "head_bias", "global_pool", "drop_rate")


def _create(variant: str, pretrained: bool, architecture: list[list[str]], stem_size: int, **kwargs: Any) -> nn.Module:
    features_only = kwargs.pop("features_only", False)
    model = build_model_with_cfg(
        MobileNetV3Features if features_only else MobileNetV3,
        variant,
        pretrained,
        pretrained_strict=not features_only,
        kwargs_filter=_HEAD_ARGUMENTS if features_only else None,  # type: ignore[arg-type]  # timm types one name
        block_args=decode_arch_def(architecture),  # type: ignore[no-untyped-call]  # timm has no types for it
        stem_size=stem_size,
        fix_stem=True,
        head_bias=False,
        round_chs_fn=round_channels,
        act_layer=nn.Hardswish,
        norm_layer=nn.BatchNorm2d,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels),
        **kwargs,
    )
    if features_only:
        # torch: any attribute is a module
        model.default_cfg = pretrained_cfg_for_features(model.default_cfg)  # type: ignore[assignment, arg-type]
    if not pretrained:
        _start_as_identity(model)
    return model


def _start_as_identity(model: nn.Module) -> None:
    """Let every residual block pass its input on at first, by a last batch norm of scale 0.

    From random weights on a few hundred images these nets otherwise stay at chance for many epochs. Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """
    for block in model.modules():
        if isinstance(block, InvertedResidual) and block.has_skip:
            nn.init.zeros_(block.bn3.weight)


@register_model
def eeea_net_c2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EEEA-Net-C2: 4,732,838 parameters with 14 labels, 0.290 G multiply-accumulates at 224 px."""
    return _create("eeea_net_c2", pretrained, _EEEA_NET_C2, stem_size=16, num_features=1280, **kwargs)


@register_model
def ofa_595(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OFA-595: 7,620,446 parameters with 14 labels, 0.511 G multiply-accumulates at 224 px."""
    kwargs.setdefault("drop_rate", 0.2)  # dropout before the classifier, as in the release
    return _create("ofa_595", pretrained, _OFA_595, stem_size=24, num_features=1536, **kwargs)
