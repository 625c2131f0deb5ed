"""Grad-CAM on common architectures of three libraries: equal to an independent reference, or refused by name."""

import math
import warnings

import pytest
import timm
import torch
import torchvision
import transformers

from foveate import GradCam
from foveate.models import Preprocess

TIMM = [
    *("resnet18", "resnetv2_50", "vgg11_bn", "densenet121", "mobilenetv3_small_050", "mobilenetv4_conv_small"),
    *("efficientnet_lite0", "tf_efficientnetv2_b0", "regnety_002", "convnext_atto", "convnextv2_atto"),
    *("ghostnet_100", "dla34", "repvgg_a0", "nfnet_l0", "selecsls42b", "edgenext_xx_small", "mobilevit_xxs"),
    *("mobilevitv2_050", "poolformer_s12", "pvt_v2_b0", "nest_tiny", "inception_next_atto", "starnet_s1"),
    *("coatnet_nano_rw_224", "maxvit_rmlp_pico_rw_256", "focalnet_tiny_srf", "visformer_tiny"),
]
# Whose smaller relatives are there, and which take seconds to build.
LARGE = {
    "convnext_large",
    "regnet_x_32gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "resnext101_64x4d",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
}
# What gives tokens: how many come before those of positions, or that it is (B, h, w, C), by their papers.
LAST = "channels last"
TOKENS = {
    **dict.fromkeys(("torchvision:vit_b_16", "torchvision:vit_b_32"), 1),
    **dict.fromkeys((f"torchvision:swin{kind}" for kind in ("_t", "_s", "_b", "_v2_t", "_v2_s", "_v2_b")), LAST),
    **dict.fromkeys(("timm:vit_tiny_patch16_224", "timm:vit_small_patch32_224", "timm:vit_tiny_r_s16_p8_224"), 1),
    **dict.fromkeys(("timm:deit_tiny_patch16_224", "timm:deit3_small_patch16_224", "timm:flexivit_small"), 1),
    **dict.fromkeys(("timm:deit_tiny_distilled_patch16_224", "timm:pit_ti_distilled_224"), 2),
    **dict.fromkeys(("timm:beit_base_patch16_224", "timm:eva02_tiny_patch14_224", "timm:convit_tiny"), 1),
    **dict.fromkeys(("timm:cait_xxs24_224", "timm:pit_ti_224", "timm:xcit_nano_12_p16_224", "timm:volo_d1_224"), 1),
    **dict.fromkeys(("timm:vit_small_patch14_dinov2", "timm:vit_base_patch32_clip_224"), 1),
    **dict.fromkeys(("timm:vit_small_patch14_reg4_dinov2", "timm:vit_small_patch16_dinov3"), 5),
    **dict.fromkeys(("timm:swin_tiny_patch4_window7_224", "timm:swinv2_tiny_window8_256"), LAST),
    **dict.fromkeys(("timm:swinv2_cr_tiny_224", "timm:sequencer2d_s"), LAST),
    **dict.fromkeys(("timm:vit_medium_patch16_gap_256", "timm:vit_base_patch32_siglip_256", "timm:mixer_s16_224"), 0),
    **dict.fromkeys(("timm:twins_svt_small", "timm:hiera_tiny_224", "timm:mvitv2_tiny", "timm:efficientformer_l1"), 0),
    **dict.fromkeys(("timm:gmlp_s16_224", "timm:resmlp_12_224", "timm:vit_relpos_small_patch16_224"), 0),
    **dict.fromkeys(
        (f"transformers:{kind}" for kind in ("ViT", "Beit", "Data2VecVision", "Dinov2", "ViTMSN", "CLIP")), 1
    ),
    **dict.fromkeys(("transformers:DeiT", "transformers:DeiTWithTeacher"), 2),
    "transformers:Dinov2WithRegisters": 5,
    **dict.fromkeys((f"transformers:{kind}" for kind in ("Swin", "Swinv2", "Siglip", "IJepa", "Hiera")), 0),
    "transformers:Pvt": 1,
}
# In which it is not certain where the positions are, in any layer.
UNCERTAIN = [
    *("timm:levit_128s", "timm:tnt_s_patch16_224", "timm:crossvit_tiny_240", "timm:coat_lite_tiny"),
    *("timm:naflexvit_base_patch16_gap", "transformers:Levit"),
]
CONVOLUTIONS = [f"torchvision:{name}" for name in torchvision.models.list_models(torchvision.models)]
CONVOLUTIONS = [name for name in CONVOLUTIONS if name.partition(":")[2] not in LARGE and name not in TOKENS]
CONVOLUTIONS += [f"timm:{name}" for name in TIMM]
CONVOLUTIONS += [f"transformers:{kind}" for kind in ("ConvNext", "ResNet", "Segformer", "MobileViT")]

SIDE = 64
TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
WINDOWS = {"image_size": SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CONFIGS = {
    **{key: {"text_config": TINY, "vision_config": TINY | PATCHES} for key in ("CLIP", "Siglip")},
    **dict.fromkeys(("Swin", "Swinv2"), WINDOWS),
    "Hiera": {"image_size": [SIDE, SIDE], "embed_dim": 16, "depths": [1, 1, 2, 1]},
    **dict.fromkeys(("Pvt", "Segformer"), STAGES | {"image_size": SIDE, "num_attention_heads": [1, 1, 1, 1]}),
    "ConvNext": STAGES,
    "ResNet": STAGES | {"embedding_size": 8},
    "Levit": {},
    "MobileViT": {
        "image_size": SIDE,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
    },
}


def build(name):
    library, _, architecture = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how torchvision initializes some
        if library == "timm":
            smaller = {"img_size": 140} if "dinov2" in architecture else {}  # than 518
            return timm.create_model(architecture, pretrained=False, **smaller)
        if library == "transformers":
            kind, _, head = architecture.partition("With")
            kind, head = (kind, "WithTeacher") if head == "Teacher" else (architecture, "")
            config = getattr(transformers, f"{kind}Config")(**CONFIGS.get(kind, TINY | PATCHES), num_labels=7)
            return getattr(transformers, f"{kind}ForImageClassification{head}")(config)
        return torchvision.models.get_model(architecture, weights=None)


def image_for(model):
    """Return an image that is not square, if the model takes one."""
    image = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            model.eval()(image)
    except (RuntimeError, AssertionError, ValueError):
        config = getattr(model, "default_cfg", {"input_size": (3, 224, 224)})
        side = SIDE if hasattr(model, "config") else config["input_size"][-1]
        side = 140 if side == 518 else side
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return image


def reference(model, layer, image, tokens=None):
    """Grad-CAM by its formula, by autograd alone."""
    outputs = []

    def keep(_module, _inputs, output):
        first, *others = output if isinstance(output, tuple) else (output,)
        outputs.append(first)
        return (first.clone(), *others) if others else first.clone()  # later layers may write into it

    handle = model.get_submodule(layer).register_forward_hook(keep)
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    logits = model.eval()(x)
    logits = getattr(logits, "logits", logits)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], outputs[0])
    activations, gradient = (as_map(x, tokens, image) for x in (outputs[0], gradient))
    cam = (gradient.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu().detach()
    return cam / cam.amax() if cam.amax() > 0 else torch.ones_like(cam)


def as_map(output, tokens, image):
    if tokens is None or (output.ndim == 4 and tokens != LAST):
        return output
    if tokens == LAST:
        return output.permute(0, 3, 1, 2)
    rows = round(math.sqrt((output.shape[1] - tokens) * image.shape[2] / image.shape[3]))
    return output[:, tokens:].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)


def state(model):
    return (
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [(p.requires_grad, p.grad, p._version) for p in model.parameters()],
        [buffer.clone() for buffer in model.buffers()],
    )


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *TOKENS])
def test_a_map_is_right_and_the_model_untouched(name):
    model = build(name)
    image = image_for(model)
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    cam = GradCam(model, preprocess=Preprocess())
    maps = cam(image)
    after = state(model)
    assert after[:2] == before[:2]
    assert all(map(torch.equal, after[2], before[2]))
    wanted = reference(model, cam.layer_name, image, TOKENS.get(name))
    assert maps.shape == wanted.shape
    assert (maps - wanted).abs().max() < (1e-4 if name in TOKENS else 2e-3)


@pytest.mark.parametrize("name", UNCERTAIN)
def test_what_is_not_certain_is_refused_by_name(name):
    model = build(name)
    image = image_for(model)
    model.train()
    before = state(model)
    with pytest.raises(ValueError, match="layer: .* whose tokens are certain to be a grid .* layer=.* tokens="):
        GradCam(model)(image)
    after = state(model)
    assert after[:2] == before[:2]
    assert all(map(torch.equal, after[2], before[2]))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:vgg11_bn", "timm:dla34"])
@pytest.mark.parametrize("side", [32, 256])
def test_the_layer_follows_from_the_model_alone(name, side):
    model = build(name)
    first, second = GradCam(model), GradCam(model)
    first(torch.rand(1, 3, 224, 224))
    second(torch.rand(1, 3, side, side + 32))
    assert first.layer_name == second.layer_name
    assert first.identity == second.identity


CHANNELS_LAST = {
    "torchvision:swin_t": ["features.0", "features.1", "features.1.0.norm1", "features.3", "features.7", "norm"],
    "torchvision:swin_v2_t": ["features.5"],
    "torchvision:convnext_tiny": ["features.1.0.block.2"],
    "timm:swin_tiny_patch4_window7_224": ["layers.0", "layers.3", "norm"],
    "timm:swinv2_cr_tiny_224": ["stages.1.blocks.0.norm1"],
}


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name, layers in CHANNELS_LAST.items() for layer in layers]
)
@pytest.mark.parametrize("side", [224, 384])
def test_a_layer_with_its_channels_last_is_seen_as_a_map(name, layer, side):
    model = build(name)
    if side != 224 and name.startswith("timm:swin"):
        pytest.skip("takes only images of 224x224")
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    maps = GradCam(model, layer=layer, preprocess=Preprocess())(image)
    wanted = reference(model, layer, image, LAST)
    assert maps.shape == wanted.shape
    assert (maps - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torchvision:convnext_tiny", "features.3"),
        ("torchvision:maxvit_t", "blocks.2"),
        ("torchvision:vgg11", "avgpool"),
        ("torchvision:vgg11", "features.0"),
        ("torchvision:resnet18", "layer1"),
        ("timm:nest_tiny", "levels.0"),
        ("timm:convnext_atto", "stages.1.blocks.0.mlp.fc1"),
    ],
)
def test_a_layer_with_its_channels_first_is_taken(name, layer):
    maps = GradCam(build(name), layer=layer)(torch.rand(1, 3, 224, 224))
    assert maps.shape[:2] == (1, 1)
    assert maps.shape[2] == maps.shape[3] > 1
