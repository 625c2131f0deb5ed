"""Layers of transformers that give tokens, and models that return more than logits."""

from collections import namedtuple

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from foveate import ActivationMap, GradCam
from foveate.models import Classifier, Preprocess
from foveate.saliency import CaptumAttribution, as_saliency


def vit(patch=8, side=64):
    torch.manual_seed(0)
    model = VisionTransformer(side, patch, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


class Renamed(nn.Module):
    """A transformer whose summary token nothing gives away."""

    def __init__(self, summaries=1):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.summary = nn.Parameter(torch.randn(1, summaries, 32))
        self.block = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.summary.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.norm(self.block(tokens)).mean(1))


def activations(model, layer, images, prefix, grid):
    outputs = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: outputs.append(output))
    with torch.no_grad():
        model(Preprocess()(images))
    handle.remove()
    return outputs[0][:, prefix:].transpose(1, 2).unflatten(2, grid)


class TestTokens:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def test_activations_are_those_of_the_positions(self):
        model, layer = vit(), "encoder.layers.encoder_layer_1"
        wanted = activations(model, layer, self.images, 1, (8, 8)).mean(1, keepdim=True)
        maps = ActivationMap(model, layer)(self.images)
        # What does not stand out is 0, as in every map.
        assert torch.allclose(maps, wanted.relu() / wanted.amax((1, 2, 3), keepdim=True), atol=1e-5)

    @pytest.mark.parametrize("method", ["LayerGradCam", "LayerActivation", "LayerIntegratedGradients"])
    def test_any_layer_method_of_captum(self, method):
        model = vit()
        maps = CaptumAttribution(method, model, "encoder.layers.encoder_layer_1", grid=None)(self.images)
        assert maps.shape == (2, 1, 8, 8)
        if method == "LayerGradCam":
            found = CaptumAttribution(method, model, grid=None)
            found(self.images)
            assert found.layer_name == "encoder.layers.encoder_layer_2.ln_1"
            assert torch.allclose(
                CaptumAttribution(method, model, found.layer_name)(self.images), GradCam(model)(self.images), atol=1e-5
            )

    def test_methods_without_a_layer(self):
        assert CaptumAttribution("Saliency", vit(), grid=16)(self.images).shape == (2, 1, 16, 16)

    @pytest.mark.parametrize("summaries", [1, 2])
    def test_tokens_before_the_positions_are_counted_or_told(self, summaries):
        model = Renamed(summaries).eval()
        with pytest.raises(ValueError, match="certain .* name one by layer=, and by tokens= how many"):
            GradCam(model)(self.images)
        with pytest.raises(ValueError, match="'norm' of Renamed .* not certain where its positions are; give tokens="):
            GradCam(model, "norm")(self.images)
        told = GradCam(model, tokens=summaries)
        maps = told(self.images)
        assert told.layer_name == "norm"
        wanted = activations(model, "norm", self.images, summaries, (8, 8)).mean(1, keepdim=True).relu()
        maps = ActivationMap(model, "norm", tokens=summaries)(self.images)
        assert torch.allclose(maps, wanted / wanted.amax((1, 2, 3), keepdim=True), atol=1e-5)

    def test_a_wrong_number_of_tokens_is_refused(self):
        for layer in (None, "norm"):
            with pytest.raises(ValueError, match="layer: .* certain"):
                GradCam(Renamed().eval(), layer, tokens=3)(self.images)
        for wrong in (-1, 1.5, "1"):
            with pytest.raises((TypeError, ValueError), match="tokens"):
                GradCam(vit(), tokens=wrong)

    def test_identity(self):
        model = vit()
        assert "tokens" not in GradCam(model).identity
        assert GradCam(model, tokens=1).identity != GradCam(model, tokens=2).identity != GradCam(model).identity
        assert GradCam(model, tokens=1) != GradCam(model)
        assert as_saliency({"method": "GradCam", "tokens": 1}, model=model) == GradCam(model, tokens=1)

    def test_tokens_that_are_sorted_by_windows_are_refused(self):
        """Hiera sorts them so that its first stages pool what lies together; by its last they are in rows again."""
        torch.manual_seed(0)
        model = timm.create_model("hiera_tiny_224", pretrained=False).eval()
        images = torch.rand(1, 3, 224, 224)
        with pytest.raises(ValueError, match=r"'blocks.1' .* not certain where its positions are"):
            GradCam(model, "blocks.1")(images)
        assert GradCam(model, "blocks.11")(images).shape == (1, 1, 7, 7)

    def test_a_block_whose_other_tokens_nobody_reads_is_not_taken(self):
        cam = GradCam(vit())
        cam(self.images)
        assert cam.layer_name == "encoder.layers.encoder_layer_2.ln_1"
        assert cam(self.images).std() > 0


class TestSizes:
    """What a model does not take is resized by its preprocessing, and the map covers all of the image."""

    @pytest.mark.parametrize("size", [(64, 64), (96, 200), (240, 64), (33, 71)])
    @pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
    def test_the_peak_is_where_the_object_is(self, size, corner):
        model = vit()
        nn.init.zeros_(model.encoder.pos_embedding)
        image = torch.full((1, 3, *size), 0.45)
        height, width = (side // 4 for side in size)
        top, left = (((s - s // 4) if at else 0) for s, at in zip(size, corner, strict=True))
        image[..., top : top + height, left : left + width] = torch.rand(3, height, width)
        for layer in ("encoder.dropout", "encoder.layers.encoder_layer_0"):
            maps = ActivationMap(model, layer, reduce=lambda a: (a - a.median(-1, True)[0]).square().sum(1, True))(
                image
            )
            assert maps.shape == (1, 1, 8, 8)
            row, column = divmod(int(maps.flatten().argmax()), 8)
            assert (row >= 4, column >= 4) == (bool(corner[0]), bool(corner[1]))

    def test_it_is_the_image_resized(self):
        model, image = vit(), torch.rand(1, 3, 96, 200)
        square = F.interpolate(image, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        assert torch.allclose(GradCam(model)(image), GradCam(model)(square), atol=1e-3)

    def test_other_sizes_come_and_go(self):
        cam = GradCam(vit())
        images = [torch.rand(1, 3, *size) for size in ((96, 200), (64, 64), (200, 96))]
        assert all(torch.equal(cam(x), GradCam(vit())(x)) for x in images + images[::-1])

    def test_a_function_of_the_user_is_left_as_it_is(self):
        with pytest.raises(AssertionError, match="Wrong image height"):
            GradCam(vit(), preprocess=lambda x: x)(torch.rand(1, 3, 96, 200))

    def test_positions_are_not_interpolated(self):
        model = vit()
        model.interpolated = False
        seen = []
        model.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape[-2:])))
        before = model.encoder.pos_embedding.clone()
        GradCam(model)(torch.rand(1, 3, 128, 128))
        assert seen[-1] == (64, 64)
        assert torch.equal(model.encoder.pos_embedding, before)

    def test_models_that_take_any_size_get_it(self):
        torch.manual_seed(0)
        model = torchvision.models.swin_t()
        assert GradCam(model)(torch.rand(1, 3, 96, 160)).shape == (1, 1, 3, 5)


Output = namedtuple("Output", "features logits")


class Answering(nn.Module):
    """A network whose answer comes in a container."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.wrap = wrap

    def forward(self, x):
        features = self.body(x)
        return self.wrap(self.head(features.mean((2, 3))), features)


CONTAINERS = {
    "dictionary": lambda logits, features: {"logits": logits, "features": features.mean((2, 3))},
    "attribute": lambda logits, features: Output(features.mean((2, 3)), logits),
    "tuple": lambda logits, features: (logits, features),
    "list": lambda logits, features: [features, None, logits],
}


class TestOutputs:
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_logits_are_taken_from_what_holds_them(self, container):
        model, plain = Answering(CONTAINERS[container]), Answering(lambda logits, _features: logits)
        logits = [Classifier("net", net, Preprocess()).logits(self.images) for net in (model, plain)]
        assert torch.equal(*logits)
        for kind in (GradCam, ActivationMap):
            assert torch.equal(kind(model)(self.images), kind(plain)(self.images))
        for method in ("LayerGradCam", "Saliency", "DeepLift"):
            maps = [CaptumAttribution(method, net)(self.images) for net in (model, plain)]
            assert torch.equal(*maps)
        assert not model._forward_hooks
        assert type(model(self.images)) is type(CONTAINERS[container](logits[0], self.images))

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda logits, features: (logits, features.mean((2, 3))),
            lambda logits, features: {"scores": logits, "features": features},
            lambda _logits, features: features,
        ],
    )
    def test_what_is_not_certain_is_refused(self, wrap):
        model = Answering(wrap).eval()
        for call in (GradCam(model), Classifier("net", model, Preprocess()).logits):
            with pytest.raises(ValueError, match=r"model: expected logits \(B, classes\)"):
                call(self.images)
        assert not model._forward_hooks
