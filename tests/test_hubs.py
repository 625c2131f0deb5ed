"""Models by name from timm and Hugging Face, from folders that these libraries wrote."""

import sys

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image

from foveate import GradCam
from foveate.cli import main
from foveate.evaluation import SampleFolder
from foveate.images import as_tensor
from foveate.models import LazyModel, PictureTransform, Preprocess, as_preprocess, load_classifier, preprocess_of

CLASSES = ["owl", "cat", "dog"]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = transformers.ViTConfig(
    image_size=64,
    patch_size=8,
    id2label=dict(enumerate(CLASSES)),
    label2id={name: k for k, name in enumerate(CLASSES)},
    **TINY,
)
SQUARE = {"height": 64, "width": 64}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with models as timm and transformers save them."""
    root = tmp_path_factory.mktemp("hub")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=3)
        timm.models.save_for_hf(model, root / "timm", model_config={"label_names": CLASSES})
        transformers.ViTForImageClassification(VIT).save_pretrained(root / "vit")
        transformers.ViTImageProcessor(size=SQUARE).save_pretrained(root / "vit")
        transformers.ViTForImageClassification(VIT).save_pretrained(root / "unprocessed")
        transformers.ViTModel(VIT, add_pooling_layer=False).save_pretrained(root / "headless")
        config = transformers.CLIPConfig(
            text_config=TINY | {"projection_dim": 16}, vision_config=TINY | {"image_size": 64, "patch_size": 8}
        )
        transformers.CLIPModel(config).save_pretrained(root / "clip")
        transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE).save_pretrained(root / "clip")
        transformers.BertModel(transformers.BertConfig(vocab_size=30, **TINY)).save_pretrained(root / "texts")
    return root


def photo(height=150, width=200):
    rows, columns = np.mgrid[:height, :width] / 200
    return Image.fromarray(
        (255 * np.stack([rows, columns, 0.5 + 0.4 * np.sin(9 * rows)], 2)).clip(0, 255).astype(np.uint8)
    )


class TestLoading:
    def test_a_folder_of_timm_s(self, hub):
        source = LazyModel(f"timm:{hub / 'timm'}")
        model = source.get()
        assert type(model).__module__.startswith("timm.")
        assert not model.training
        assert source.class_names == tuple(CLASSES)
        config = timm.data.resolve_model_data_config(model)
        assert source.preprocess == as_preprocess(config) != Preprocess()
        original = timm.create_model(f"local-dir:{hub / 'timm'}", pretrained=True).eval()
        classifier = load_classifier(f"timm:{hub / 'timm'}")
        wanted = original(timm.data.create_transform(**config)(photo())[None])
        assert torch.allclose(classifier.logits([as_tensor(photo())]), wanted, atol=0.02)
        assert classifier.name == "timm"

    def test_a_folder_of_transformers(self, hub):
        spec = f"hf:{hub / 'vit'}"
        classifier = load_classifier(spec)
        assert classifier.class_names == tuple(CLASSES)
        assert classifier.preprocess == Preprocess((64, 64), None, (0.5,) * 3, (0.5,) * 3) == preprocess_of(spec)
        processor = transformers.AutoImageProcessor.from_pretrained(hub / "vit")
        model = transformers.AutoModelForImageClassification.from_pretrained(hub / "vit").eval()
        with torch.no_grad():
            wanted = model(**processor(photo(), return_tensors="pt")).logits
        assert torch.allclose(classifier.logits([as_tensor(photo())]), wanted, atol=0.01)
        assert GradCam(spec)(as_tensor(photo())[None]).shape == (1, 1, 8, 8)

    def test_of_a_model_of_images_and_texts_the_encoder_of_images(self, hub):
        source = LazyModel(f"hf:{hub / 'clip'}")
        assert type(source.get()).__name__ == "CLIPVisionModelWithProjection"
        assert str(source.preprocess).startswith("resize 64 (bicubic), crop 64, mean 0.481")
        assert source.class_names == ()

    def test_without_an_image_processor(self, hub):
        assert LazyModel(f"hf:{hub / 'unprocessed'}").preprocess is None

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("hf:{hub}/headless", "no weights for 'pooler.dense.bias' and 1 more of ViTModel, .*function of your own"),
            ("hf:{hub}/texts", "of BertModel, which is not a network .* that takes images alone"),
            ("hf:{hub}", "could not be loaded"),
            ("hf:", "'hf:' names no model; write timm:NAME, hf:ORG/NAME"),
            ("timm:", "names no model"),
            ("timm:resnet188", "timm has no pretrained 'resnet188' .*did you mean resnet18"),
            ("timm:create_model:resnet18", "create_model"),
        ],
    )
    def test_what_cannot_be_loaded_is_told(self, hub, spec, words, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ValueError, match=f"model: .*{words}"):
            LazyModel(spec.format(hub=hub)).get()

    @pytest.mark.parametrize(("library", "extra"), [("timm", "timm"), ("transformers", "hf")])
    def test_a_missing_library_names_its_extra(self, library, extra, monkeypatch, hub):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ImportError, match=f'{library} is not installed; pip install "{library}>='):
            LazyModel(f"{extra}:{hub}/nothing").get()

    def test_it_is_quiet_and_leaves_what_is_global(self, hub, capfd):
        state = torch.get_rng_state()
        level = transformers.logging.get_verbosity()
        LazyModel._built.pop(f"hf:{hub / 'vit'}", None)
        LazyModel(f"hf:{hub / 'vit'}").get()
        assert torch.equal(state, torch.get_rng_state())
        assert transformers.logging.get_verbosity() == level
        assert capfd.readouterr() == ("", "")


PROCESSORS = {
    "ViT": ({}, "resize 224×224 (bilinear), mean 0.5"),
    "CLIP": ({}, "resize 224 (bicubic), crop 224"),
    "Bit": ({"size": {"shortest_edge": 256}}, "resize 256 (bicubic), crop 224"),
    "DeiT": ({}, "resize 256×256 (bicubic), crop 224"),
    "ConvNext": ({}, "resize 384×384 (bicubic), mean"),
    "ConvNext at 224": ({"size": {"shortest_edge": 224}}, "resize 256 (bicubic), crop 224"),
    "PoolFormer": ({}, "resize 248 (bicubic), crop 224"),
    "MobileNetV2": ({}, "resize 256 (bilinear), crop 224"),
    "Siglip": ({"do_normalize": False}, "resize 224×224 (bicubic), mean 0 0 0, std 1 1 1"),
    "Beit": ({"do_resize": False, "do_center_crop": True, "crop_size": SQUARE}, "crop 64"),
    "Levit": ({}, "TransformersProcessor"),  # resizes to more than it says
    "MobileViT": ({}, "TransformersProcessor"),  # gives blue first
    "EfficientNet": ({}, "TransformersProcessor"),  # normalizes twice
    "ViT by Lanczos": ({"resample": Image.Resampling.LANCZOS}, "TransformersProcessor"),
}


class TestImageProcessors:
    @pytest.mark.parametrize("kind", PROCESSORS)
    @pytest.mark.parametrize("size", [(300, 400), (480, 260)])
    def test_they_are_read_as_what_they_do(self, kind, size):
        settings, words = PROCESSORS[kind]
        processor = getattr(transformers, f"{kind.split(' ')[0]}ImageProcessor")(**settings)
        preprocess = as_preprocess(processor)
        assert str(preprocess).startswith(words)
        wanted = processor(photo(*size), return_tensors="pt")["pixel_values"][0]
        ours = preprocess(as_tensor(photo(*size))[None])[0]
        assert ours.shape == wanted.shape
        assert float((ours - wanted).abs().max()) < 0.06

    def test_identities_tell_processors_apart(self):
        one, other = (as_preprocess(transformers.LevitImageProcessor(size={"shortest_edge": k})) for k in (224, 192))
        assert isinstance(one, PictureTransform)
        assert one.identity != other.identity
        assert one.identity == as_preprocess(transformers.LevitImageProcessor()).identity


class TestClassNames:
    @pytest.fixture
    def photos(self, tmp_path):
        for k, name in enumerate(["cat", "dog", "owl"]):
            (tmp_path / "photos" / name).mkdir(parents=True)
            photo(80 + k, 120).save(tmp_path / "photos" / name / "0.png")
        return tmp_path / "photos"

    def test_folders_named_as_classes_take_their_numbers(self, photos):
        folder = SampleFolder(photos)
        folder.number_classes(3, CLASSES)
        assert folder.labels == {"cat": 1, "dog": 2, "owl": 0}
        folder.number_classes(4, [*CLASSES, "toad"])
        assert folder.labels == {"cat": 1, "dog": 2, "owl": 0}
        assert folder.class_names() == {0: "owl", 1: "cat", 2: "dog", 3: "toad"}

    def test_names_that_say_nothing_of_the_folders(self, photos):
        folder = SampleFolder(photos)
        folder.number_classes(3, ["a", "b", "c"])
        assert folder.labels == {"cat": 0, "dog": 1, "owl": 2}

    def test_some_folders_are_named_as_classes_and_some_not(self, photos):
        with pytest.raises(ValueError, match="'cat' is named as a class of the model, and 'dog' is not"):
            SampleFolder(photos).number_classes(3, ["cat", "owl", "toad"])

    def test_evaluate_by_name(self, hub, photos, tmp_path, capsys):
        specs = ["--model", f"hf:{hub / 'vit'}", "--judge", f"timm:{hub / 'timm'}"]
        options = ["--quality", "20,60", "--strength", "0,0.5", "--resamples", "20", "--out", str(tmp_path / "report")]
        assert main(["evaluate", str(photos), *specs, *options]) == 0
        said = "".join(capsys.readouterr())
        assert "vit: resize 64×64 (bilinear), mean 0.5 0.5 0.5, std 0.5 0.5 0.5, its own" in said
        assert "timm: resize 168 (bicubic), crop 160" in said
        assert (tmp_path / "report" / "report.html").is_file()

    def test_judges_with_classes_in_different_orders(self, hub, photos, tmp_path, capsys):
        model = timm.create_model("test_vit", num_classes=3)
        timm.models.save_for_hf(model, tmp_path / "other", model_config={"label_names": CLASSES[::-1]})
        specs = ["--model", f"hf:{hub / 'vit'}", "--judge", f"timm:{tmp_path / 'other'}"]
        assert main(["evaluate", str(photos), *specs, "--quality", "20"]) == 2
        assert "--judge: the judges' classes come in different orders" in capsys.readouterr().err
