import pickle
import warnings

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from conftest import RECIPES
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

import foveate
from foveate import transforms
from foveate.demo import Scenes
from foveate.draws import number_or_pair
from foveate.images import from_array, to_array
from foveate.testing import HostConformance


def prefilter(strength=0.5):
    return foveate.Prefilter(foveate.GradCam(f"{RECIPES}:tiny"), strength, sigma=24)


MAKERS = {
    "Prefilter": lambda: transforms.Prefilter(prefilter(), strength=(0.2, 0.8)),
    "Compress": lambda: transforms.Compress("jpeg", quality=(20, 60)),
    "Compress filtered": lambda: transforms.Compress("jpeg:30", prefilter=prefilter(), strength=(0.2, 0.8), scale=0.7),
}
IMAGES = {
    "PIL RGB": lambda: PIL.Image.fromarray(to_array(torch.rand(3, 21, 34))),
    "PIL L": lambda: PIL.Image.fromarray(to_array(torch.rand(1, 21, 34))[..., 0]),
    "uint8": lambda: (torch.rand(3, 21, 34) * 255).byte(),
    "uint8 gray": lambda: (torch.rand(1, 21, 34) * 255).byte(),
    "uint8 batch": lambda: (torch.rand(2, 4, 3, 21, 34) * 255).byte(),
    "no images": lambda: torch.zeros(0, 3, 21, 34, dtype=torch.uint8),
    "float32": lambda: torch.rand(3, 21, 34),
    "float16": lambda: torch.rand(3, 21, 34).half(),
    "float64 batch": lambda: torch.rand(2, 3, 21, 34).double(),
    "tv image": lambda: tv_tensors.Image((torch.rand(3, 21, 34) * 255).byte()),
    "tv float image": lambda: tv_tensors.Image(torch.rand(3, 21, 34)),
    "video": lambda: tv_tensors.Video((torch.rand(5, 3, 21, 34) * 255).byte()),
    "strided": lambda: (torch.rand(34, 21, 3) * 255).byte().permute(2, 1, 0),
}
CONTAINERS = {
    "alone": lambda s: s["image"],
    "dict": lambda s: s,
    "list": lambda s: [*s.values()],
    "tuple": lambda s: tuple(s.values()),
    "nested": lambda s: {"deep": [s, (s["label"],)], "x": None},
}


# torchvision has key points since 0.23.
POINTS = tv_tensors.KeyPoints(torch.tensor([[3, 4]]), canvas_size=(21, 34)) if hasattr(tv_tensors, "KeyPoints") else 4


def sample(image):
    return {
        "image": image,
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 8, 9]]), format="XYXY", canvas_size=(21, 34)),
        "mask": tv_tensors.Mask(torch.randint(0, 3, (21, 34), dtype=torch.uint8)),
        "points": POINTS,
        "label": torch.tensor(3) if not isinstance(image, torch.Tensor) else 3,
        "text": "sign",
        "number": 1.5,
    }


def leaves(tree):
    return torch.utils._pytree.tree_flatten(tree)


def pixels(image):
    return from_array(np.atleast_3d(np.asarray(image))) if isinstance(image, PIL.Image.Image) else image


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
class TestConformance:
    """torchvision's own smoke pattern: container x kind of input x pickled."""

    @pytest.mark.parametrize("pickled", [False, True])
    @pytest.mark.parametrize("container", CONTAINERS.values(), ids=list(CONTAINERS))
    @pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
    def test_smoke(self, make, image, container, pickled):
        transform = pickle.loads(pickle.dumps(make())) if pickled else make()
        original = container(sample(image()))
        flat_in, spec_in = leaves(original)
        flat_out, spec_out = leaves(transform(original))
        assert spec_in == spec_out
        for before, after in zip(flat_in, flat_out, strict=True):
            assert type(after) is type(before)
            kinds = (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image)
            if isinstance(before, kinds) or (type(before) is torch.Tensor and before.ndim >= 3):
                a, b = pixels(before), pixels(after)
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                assert a.numel() == 0 or not torch.equal(a, b)
                if isinstance(before, PIL.Image.Image):
                    assert before.mode == after.mode
            else:
                assert after is before

    def test_takes_what_jpeg_takes(self, make):
        for make_image in IMAGES.values():
            image = make_image()
            if not isinstance(image, torch.Tensor) or image.dtype == torch.uint8:
                v2.JPEG(50)(image)
                make()(image)

    def test_input_is_not_changed(self, make):
        image = (torch.rand(3, 21, 34) * 255).byte()
        before = image.clone()
        make()(image)
        assert torch.equal(image, before)

    def test_one_draw_a_call_from_torch_s_generator(self, make):
        transform, image = make(), torch.rand(3, 40, 40)
        torch.manual_seed(5)
        first, second = transform(image), transform(image)
        torch.manual_seed(5)
        assert torch.equal(transform(image), first)
        assert not torch.equal(first, second)
        batch = transform(torch.stack([image] * 3))
        assert torch.equal(batch[0], batch[2])

    def test_is_small_and_holds_no_model(self, make):
        transform = make()
        transform(torch.rand(3, 21, 34))
        assert list(transform.parameters()) == []
        assert list(transform.children()) == []
        assert len(pickle.dumps(transform)) < 2000

    def test_in_a_compose(self, make):
        chain = v2.Compose([make(), v2.Resize(16), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])
        out = chain({"image": tv_tensors.Image((torch.rand(3, 21, 34) * 255).byte()), "label": 3})
        assert (out["image"].shape, out["label"]) == ((3, 16, 25), 3)

    @pytest.mark.parametrize(
        ("image", "error", "words"),
        [
            (lambda: torch.randn(3, 8, 8) * 3, ValueError, "normalization"),
            (lambda: torch.zeros(4, 8, 8, dtype=torch.uint8), ValueError, "3 or 1"),
            (lambda: torch.zeros(3, 8, 8, dtype=torch.int32), TypeError, "int32"),
            (lambda: PIL.Image.new("RGBA", (8, 8)), ValueError, "convert"),
        ],
    )
    def test_what_is_not_an_image(self, make, image, error, words):
        with pytest.raises(error, match=words):
            make()(image())

    def test_repr_says_what_it_does(self, make):
        assert "strength=" in repr(make())


class TestCompress:
    @pytest.mark.parametrize("arguments", [{"prefilter": {"sigma": 2}, "strength": 0.5}, {"codec": "hevc:roi=5"}])
    def test_maps_that_nothing_makes_are_missed_at_once(self, arguments):
        with pytest.raises(ValueError, match="saliency: .* needs maps, and nothing makes them"):
            transforms.Compress(**arguments)

    def test_it_is_torchvision_s_jpeg(self, photo):
        """The same image as v2.JPEG gives: only the Huffman tables differ, and they are lossless."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's encoders are, since 0.29
            expected = v2.JPEG(35)(photo)
        assert torch.equal(transforms.Compress("jpeg:35")(photo), expected)

    def test_it_is_the_compressor(self, photo):
        compressor = foveate.Compressor("jpeg:30", prefilter(0.4), scale=0.5)
        expected = compressor.decode(compressor.encode(photo[None]))[0]
        assert torch.equal(transforms.Compress("jpeg:30", prefilter=prefilter(0.4), scale=0.5)(photo), expected)

    def test_both_ends_of_a_range_are_drawn(self):
        transform = transforms.Compress("jpeg", quality=(10, 12))
        drawn = {transform.make_params([])["quality"] for _ in range(100)}
        assert drawn == {10, 11, 12}

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"quality": (60, 20)}, ValueError, "smaller number first"),
            ({"quality": 0}, ValueError, "1 to 95"),
            ({"quality": (10, 99)}, ValueError, "1 to 95"),
            ({"quality": True}, ValueError, "quality: expected a number"),
            ({"quality": 0.5}, TypeError, "integer"),
            ({"strength": 0.5}, ValueError, "without a prefilter"),
            ({"saliency": 3}, TypeError, "saliency: .*got int"),
            ({"target": 3}, TypeError, "target: .*got int"),
            ({"control": 3}, TypeError, "control: .*got int"),
            ({"prefilter": {"strength": 2}}, ValueError, "strength"),
            ({"prefilter": {"amount": 2}}, TypeError, "amount"),
            ({"codec": "gif"}, ValueError, "gif"),
            ({"prefilter": "grad-cam"}, TypeError, "foveate.Prefilter"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            transforms.Compress(**settings)

    @pytest.mark.parametrize("strength", [1.5, (0.5, 0.1), (-1, 1)])
    def test_wrong_strength(self, strength):
        with pytest.raises(ValueError, match="strength"):
            transforms.Prefilter(prefilter(), strength=strength)
        with pytest.raises(ValueError, match="strength.*'strong'"):
            transforms.Prefilter(prefilter(), strength="strong")
        with pytest.raises(TypeError, match="saliency: expected a Saliency, a function of images"):
            transforms.Prefilter(0.5)
        with pytest.raises(TypeError, match="saliency: .*got None"):
            transforms.Prefilter(None)
        with pytest.raises(ValueError, match=r"saliency: this foveate\.Prefilter has none"):
            transforms.Prefilter(foveate.Prefilter())
        with pytest.raises(ValueError, match=r"filter, sigma: a foveate\.Prefilter has its own"):
            transforms.Prefilter(prefilter(), sigma=3)


class TestHost(HostConformance):
    """What the Compress of every host does."""

    make = staticmethod(transforms.Compress)
    call = staticmethod(lambda transform, image: to_array(transform(from_array(image))))


class TestForms:
    """What the arguments may be given as: objects, or mappings as a file holds them."""

    recipe = f"{RECIPES}:tiny"

    @pytest.mark.parametrize(
        "saliency",
        [
            recipe,
            {"model": recipe},
            {"method": "GradCam", "model": recipe},
            foveate.GradCam(recipe),
            foveate.Prefilter(recipe),
        ],
        ids=lambda saliency: type(saliency).__name__,
    )
    def test_of_a_saliency(self, saliency):
        transform = transforms.Prefilter(saliency, strength=0.6)
        assert transform.draws.prefilter == foveate.Prefilter(foveate.GradCam(self.recipe))
        assert transform.draws.strength == (0.6, 0.6)
        if not isinstance(saliency, foveate.Prefilter):
            compress = transforms.Compress(saliency=saliency)
            assert compress.draws.compressor.prefilter == transform.draws.prefilter
            assert compress.draws.strength == (0.5, 0.5)

    def test_of_a_prefilter(self):
        settings = {"saliency": self.recipe, "strength": 0.7, "filter": "guided", "sigma": 2, "even": True}
        prefilter = foveate.Prefilter(**settings)
        expected = transforms.Compress(prefilter=prefilter).draws
        assert expected.strength == (0.7, 0.7)
        assert transforms.Compress(prefilter=settings).draws == expected
        apart = {name: value for name, value in settings.items() if name != "saliency"}
        for form in (apart, foveate.Prefilter(**apart)):
            draws = transforms.Compress(prefilter=form, saliency=self.recipe).draws
            assert (draws.compressor.prefilter, draws.strength) == (prefilter, (0.7, 0.7))
        assert transforms.Prefilter(prefilter).draws.strength == (0.7, 0.7)

    def test_of_a_target(self):
        by_object = transforms.Compress(target=foveate.TargetSize(bpp=0.5))
        assert transforms.Compress(target={"bpp": 0.5}).draws == by_object.draws

    def test_of_a_control(self, photo):
        settings = {"witnesses": self.recipe, "keep": "kl0.3", "qualities": [10, 40], "scales": 1.0}
        by_mapping = transforms.Compress(control=settings)
        by_object = transforms.Compress(control=foveate.RateControl(**settings))
        assert by_mapping.draws == by_object.draws
        assert by_mapping.draws.draw() == {}
        assert torch.equal(by_mapping(photo), by_object(photo))
        filtered = transforms.Compress(control={**settings, "strengths": [0, 0.8]}, saliency=self.recipe)
        assert filtered(photo).shape == photo.shape

    def test_a_codec_that_takes_maps_is_not_filtered_besides(self):
        roi = "hevc:30,preset=ultrafast,roi=10"
        draws = transforms.Compress(roi, saliency=self.recipe).draws
        assert draws.compressor == foveate.Compressor(roi, saliency=self.recipe)
        assert (draws.strength, draws.filters, draws.uses_maps) == (None, False, True)
        both = transforms.Compress(roi, saliency=self.recipe, strength=0.5).draws
        assert both.compressor.prefilter == foveate.Prefilter(self.recipe)
        assert both.filters

    @pytest.mark.parametrize("transform", [transforms.Compress, transforms.Prefilter])
    def test_all_but_the_first_are_by_name(self, transform):
        with pytest.raises(TypeError, match="positional"):
            transform(self.recipe, 0.5)

    def test_a_filter_by_function(self, photo):
        def negative(images, strengths, sigma):
            return torch.lerp(images, 1 - images, strengths)

        expected = foveate.Prefilter(self.recipe, 0.6, filter=negative)(photo[None])[0]
        assert torch.equal(transforms.Prefilter(self.recipe, strength=0.6, filter=negative)(photo), expected)


class TestNumberOrPair:
    @pytest.mark.parametrize(
        ("value", "ends"),
        [
            (30, (30, 30)),
            (0.5, (0.5, 0.5)),
            ([10, 60], (10, 60)),
            ((0.2, 0.2), (0.2, 0.2)),
            (np.int64(30), (30, 30)),
            (np.array([0.25, 0.5]), (0.25, 0.5)),
            (torch.tensor(3), (3, 3)),
            ((torch.tensor(0.25), np.float32(0.5)), (0.25, 0.5)),
        ],
    )
    def test_python_s_numbers_come_out(self, value, ends):
        pair = number_or_pair("quality", value)
        assert pair == ends
        assert {type(end) for end in pair} == {type(end) for end in ends}

    @pytest.mark.parametrize("value", [None, "30", True, (1, True), [], [1], (1, 2, 3), {}, {1, 2}, np.zeros((1, 2))])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(ValueError, match="quality: expected a number or a pair of numbers"):
            number_or_pair("quality", value)

    def test_the_smaller_comes_first(self):
        with pytest.raises(ValueError, match=r"quality: expected the smaller number first, got \(60, 20\)"):
            number_or_pair("quality", (60, 20))


class TestRate:
    transform = transforms.Compress("jpeg:30", return_rate=True)

    def size(self, image):
        return len(foveate.Jpeg(30).encode(to_array(image)))

    def test_single_image(self, photo):
        image, rate = self.transform(photo)
        assert image.shape == photo.shape
        assert rate == {"bytes": self.size(photo), "pixels": 61 * 90}

    def test_containers(self, photo):
        expected = {"bytes": self.size(photo), "pixels": 61 * 90}
        assert self.transform({"image": photo, "label": 3})["rate"] == expected
        assert self.transform(photo, 3)[1:] == (3, expected)
        assert self.transform((photo, 3))[1:] == (3, expected)
        assert self.transform([photo, 3])[1:] == [3, expected]
        with pytest.raises(ValueError, match="already has a key 'rate'"):
            self.transform({"image": photo, "rate": 1})

    def test_batches_and_several_images(self, photo):
        rate = self.transform(torch.stack([photo, photo.flip(-1)]))[1]
        assert rate["bytes"].tolist() == [self.size(photo), self.size(photo.flip(-1))]
        assert rate["pixels"].tolist() == [61 * 90] * 2
        image = tv_tensors.Image(photo)
        assert self.transform({"a": image, "b": image})["rate"]["bytes"] == 2 * self.size(photo)
        with pytest.raises(ValueError, match="leading dimensions"):
            self.transform({"a": image, "b": tv_tensors.Image(photo[None])})

    def test_through_a_chain_and_default_collate(self, photo):
        chain = v2.Compose([self.transform, v2.Resize(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        (images, rate), labels = default_collate([(chain(PIL.Image.fromarray(to_array(photo))), k) for k in range(2)])
        assert rate["bytes"].tolist() == [self.size(photo)] * 2
        assert rate["pixels"].dtype == labels.dtype == torch.int64
        assert len(images) == 2


@pytest.fixture
def folder(tmp_path):
    """Real JPEG files in an ImageFolder tree."""
    for k, (scene, label) in enumerate(Scenes(8)):
        (tmp_path / "photos" / Scenes.classes[label]).mkdir(parents=True, exist_ok=True)
        scene.save(tmp_path / "photos" / Scenes.classes[label] / f"{k}.jpg", quality=95)
        if k == 7:
            break
    return tmp_path / "photos"


def epoch(folder, transform, workers, start="fork", seed=11):
    chain = v2.Compose([transform, v2.PILToTensor()])
    data = torchvision.datasets.ImageFolder(folder, chain)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        data, 2, num_workers=workers, generator=generator, multiprocessing_context=start if workers else None
    )
    return list(loader)


class TestWorkers:
    @pytest.mark.parametrize("start", ["fork", "forkserver"])
    def test_workers_do_what_the_process_does(self, folder, start):
        transform = transforms.Compress("jpeg:30", prefilter=prefilter(), return_rate=True)
        alone, spread = epoch(folder, transform, 0), epoch(folder, transform, 2, start)
        assert len(alone) == len(spread) == 4
        for ((a, rate_a), label_a), ((b, rate_b), label_b) in zip(alone, spread, strict=True):
            # One thread in a worker and two here may round a map's last bit apart, and so a pixel by one.
            assert (a.int() - b.int()).abs().max() <= 8
            assert (rate_a["bytes"] - rate_b["bytes"]).abs().max() <= 8
            assert torch.equal(label_a, label_b)

    def test_draws_are_reproducible_and_differ_between_workers_and_epochs(self, folder):
        transform = transforms.Compress("jpeg", quality=(5, 90), return_rate=True)
        first, again, other = (
            torch.cat([rate["bytes"] for (_, rate), _ in epoch(folder, transform, 2, seed=seed)]) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert len(set(first.tolist())) > 4

    def test_the_model_is_built_once_a_worker(self, folder, tmp_path):
        (tmp_path / "built").mkdir()
        cam = foveate.GradCam(f"{RECIPES}:counted:{tmp_path / 'built'}")
        epoch(folder, transforms.Prefilter(foveate.Prefilter(cam)), 2)
        assert len(list((tmp_path / "built").iterdir())) == 2

    def test_a_model_by_value_forks_but_does_not_pickle(self, folder):
        from recipes import tiny

        transform = transforms.Prefilter(foveate.Prefilter(foveate.GradCam(tiny())))
        assert len(epoch(folder, transform, 2)) == 4
        with pytest.raises(TypeError, match="give its recipe instead"):
            epoch(folder, transform, 2, "forkserver")


class TestOtherScales:
    def test_qualities_that_are_real_numbers_are_drawn_evenly(self):
        transform = transforms.Compress("jxl:effort=3", quality=(2, 6))
        drawn = [transform.make_params([])["quality"] for _ in range(200)]
        assert 2 <= min(drawn) < 2.3
        assert 5.7 < max(drawn) <= 6
        assert len(set(drawn)) > 100

    def test_a_target_size_is_kept(self, photo):
        _, rate = transforms.Compress("webp", target=foveate.TargetSize(bpp=0.8), return_rate=True)(photo)
        assert 8 * rate["bytes"] / rate["pixels"] <= 0.8

    def test_saliency_inside_the_codec(self, photo):
        def middle(images):
            return torch.ones(len(images), 1, 1, 1) / 2

        transform = transforms.Compress("hevc:30,preset=ultrafast,roi=10", saliency=middle)
        assert transform(photo).shape == photo.shape
