"""Grad-CAM on common architectures: equal to an independent reference, or refused by name."""

import warnings

import pytest
import timm
import torch
import torchvision

from foveate import GradCam

TIMM = [
    *("resnet18", "resnetv2_50", "vgg11_bn", "densenet121", "mobilenetv3_small_050", "mobilenetv4_conv_small"),
    *("efficientnet_lite0", "tf_efficientnetv2_b0", "regnety_002", "convnext_atto", "convnextv2_atto"),
    *("ghostnet_100", "dla34", "repvgg_a0", "nfnet_l0", "selecsls42b", "edgenext_xx_small", "mobilevit_xxs"),
    *("mobilevitv2_050", "poolformer_s12", "pvt_v2_b0", "nest_tiny", "inception_next_atto", "starnet_s1"),
    *("levit_128s", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
    *("swinv2_cr_tiny_224", "eva02_tiny_patch14_224", "mixer_s16_224", "xcit_nano_12_p16_224", "twins_svt_small"),
    "coatnet_nano_rw_224",
]
# Whose smaller relatives are there, and which take seconds to build.
LARGE = {
    "convnext_large",
    "regnet_x_32gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "resnext101_64x4d",
    "vit_h_14",
    "vit_l_32",
}
NAMES = [f"torchvision:{name}" for name in torchvision.models.list_models(torchvision.models) if name not in LARGE]
NAMES += [f"timm:{name}" for name in TIMM]
# Architectures that mix positions after their last convolution, as transformers do, so that its Grad-CAM means little.
TOKENS = (":vit", ":swin", ":levit", ":deit", ":eva", ":mixer", ":xcit", ":twins")


def build(name):
    library, _, architecture = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how torchvision initializes some
        if library == "timm":
            return timm.create_model(architecture, pretrained=False)
        return torchvision.models.get_model(architecture, weights=None)


def image_for(model):
    """Return an image that is not square, if the model takes one."""
    image = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            model.eval()(image)
    except (RuntimeError, AssertionError, ValueError):
        side = model.default_cfg["input_size"][-1] if hasattr(model, "default_cfg") else 224
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return image


def reference(model, layer, image):
    """Grad-CAM by its formula, by autograd alone."""
    outputs = []

    def keep(_module, _inputs, output):
        outputs.append(output)
        return output.clone()  # later layers may write into it

    handle = model.get_submodule(layer).register_forward_hook(keep)
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    logits = model.eval()(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], outputs[0])
    cam = (gradient.mean((2, 3), keepdim=True) * outputs[0]).sum(1, keepdim=True).relu().detach()
    return cam / cam.amax() if cam.amax() > 0 else torch.ones_like(cam)


def state(model):
    return (
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [(p.requires_grad, p.grad, p._version) for p in model.parameters()],
        [buffer.clone() for buffer in model.buffers()],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_right_or_refused_and_the_model_untouched(name):
    model = build(name)
    image = image_for(model)
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    cam = GradCam(model)
    refused = any(family in name for family in TOKENS)
    if refused:
        with pytest.raises(ValueError, match="layer: after its last convolution .* goes on to work on positions"):
            cam(image)
    else:
        maps = cam(image)
    after = state(model)
    assert after[:2] == before[:2]
    assert all(map(torch.equal, after[2], before[2]))
    if not refused:
        wanted = reference(model, cam.layer_name, image)
        assert maps.shape == wanted.shape
        assert (maps - wanted).abs().max() < 2e-3


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:vgg11_bn", "timm:dla34"])
@pytest.mark.parametrize("side", [32, 256])
def test_the_layer_follows_from_the_model_alone(name, side):
    model = build(name)
    first, second = GradCam(model), GradCam(model)
    first(torch.rand(1, 3, 224, 224))
    second(torch.rand(1, 3, side, side + 32))
    assert first.layer_name == second.layer_name
    assert first.identity == second.identity


LAST = {
    "torchvision:swin_t": ["features.0", "features.1", "features.1.0.norm1", "features.3", "features.7", "norm"],
    "torchvision:swin_v2_t": ["features.5"],
    "torchvision:convnext_tiny": ["features.1.0.block.2"],
    "timm:swin_tiny_patch4_window7_224": ["layers.0", "layers.3", "norm"],
    "timm:swinv2_cr_tiny_224": ["stages.1.blocks.0.norm1"],
}


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in LAST.items() for layer in layers])
@pytest.mark.parametrize("side", [224, 384])
def test_a_layer_with_its_channels_last_is_refused(name, layer, side):
    model = build(name)
    if side != 224 and name.startswith("timm:swin"):
        pytest.skip("takes only images of 224x224")
    with pytest.raises(ValueError, match="layer: .* has no spatial map"):
        GradCam(model, layer=layer)(torch.rand(1, 3, side, side))


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
