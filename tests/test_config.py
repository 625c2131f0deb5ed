"""One YAML for the command line, and the one of a LightningCLI."""

from pathlib import Path

import pytest

from foveate.cli import main
from foveate.cli._config import arguments
from foveate.demo import Scenes
from foveate.evaluation import Results

EXAMPLE = Path(__file__).parents[1] / "examples" / "lightning_cli.yaml"
NET = "foveate.demo:scene_net"
PREPROCESSING = ["--resize=160", "--crop=160", "--mean=0.4,0.4,0.4", "--std=0.25,0.25,0.25"]


@pytest.fixture
def tree(tmp_path):
    for scene, label in Scenes(10, seed=21):
        (tmp_path / "images" / Scenes.classes[label]).mkdir(parents=True)
        scene.save(tmp_path / "images" / Scenes.classes[label] / "scene.png")
    return tmp_path / "images"


def test_options_by_name_and_the_command_line_has_the_last_say(tree, tmp_path):
    (tmp_path / "settings.yaml").write_text(
        f"images: {tree}\nmodel: {NET}\ncodec: [jpeg:20]\nstrength: 0.5\nlimit: 3\nbaselines: false\n"
        f"resize: 160\ncrop: 160\nmean: [0.4, 0.4, 0.4]\nstd: [0.25, 0.25, 0.25]\nresamples: 5\nout: {tmp_path}/out\n"
    )
    assert (
        main(["evaluate", "--config", str(tmp_path / "settings.yaml"), "--strength", "0.3", "--codec", "webp:9"]) == 0
    )
    results = Results.load(tmp_path / "out" / "results.json")
    assert [(p.codec, p.quality, p.strength, p.n) for p in results.points] == [
        ("jpeg", 20, 0.3, 3),
        ("webp", 9, 0.3, 3),
    ]
    assert "config" not in results.settings


def test_the_file_of_a_lightning_cli(tree, tmp_path):
    """The callback's points are then evaluated on a folder; the layer is of the module in training, so it is left."""
    words = ["evaluate", str(tree), "--model", NET, "--config", str(EXAMPLE), "--limit", "2", "--resamples", "5"]
    assert main([*words, *PREPROCESSING, "--out", str(tmp_path / "out")]) == 0
    points = Results.load(tmp_path / "out" / "results.json").points
    assert [(f"{p.codec}:{p.quality:g}", p.strength) for p in points] == [
        (name, strength) for strength in (0, 0.3) for name in ("jpeg:5", "jpeg:30", "webp:20")
    ]


def test_a_saliency_with_a_model_of_its_own(tmp_path):
    (tmp_path / "cli.json").write_text(
        '{"trainer": {"callbacks": [{"class_path": "foveate.integrations.lightning.CompressionRobustness", "init_args":'
        ' {"saliency": {"model": "resnet18", "layer": "layer4", "method": "ActivationMap"}}}]}}'
    )
    words = arguments(tmp_path / "cli.json")
    assert words[:4] == ["--codec=jpeg:10", "--codec=jpeg:30", "--codec=webp:20", "--strength=0"]
    assert words[4:] == ["--model=resnet18", '--saliency={"method": "ActivationMap", "layer": "layer4"}']


@pytest.mark.parametrize(
    ("saliency", "words"),
    [
        ("resnet18", ["--model=resnet18", '--saliency={"method": "GradCam"}']),
        ("ActivationMap", ['--saliency={"method": "ActivationMap"}']),
    ],
)
def test_a_saliency_by_one_word(saliency, words, tmp_path):
    (tmp_path / "cli.yaml").write_text(
        "trainer: {callbacks: [{class_path: foveate.integrations.lightning.CompressionRobustness, init_args: "
        f"{{saliency: {saliency}}}}}]}}"
    )
    assert arguments(tmp_path / "cli.yaml")[4:] == words


def test_a_saliency_of_captum_with_its_settings(tree, tmp_path):
    """The callback's, as it stands, but for a layer, which would be one of the module in training."""
    (tmp_path / "cli.yaml").write_text(
        "trainer:\n  callbacks:\n    class_path: foveate.integrations.lightning.CompressionRobustness\n"
        "    init_args:\n      points: [jpeg:20]\n      strength: 0.4\n"
        "      saliency: {method: IntegratedGradients, arguments: {n_steps: 2}}\n"
    )
    words = ["evaluate", str(tree), "--model", NET, "--config", str(tmp_path / "cli.yaml"), "--limit", "2"]
    assert main([*words, "--resamples", "5", *PREPROCESSING, "--out", str(tmp_path / "out")]) == 0
    results = Results.load(tmp_path / "out" / "results.json")
    assert results.settings["saliency"] == {"method": "IntegratedGradients", "arguments": {"n_steps": 2}}


def test_a_mapping_among_plain_options(tmp_path):
    (tmp_path / "settings.yaml").write_text("saliency: {method: Occlusion, arguments: {strides: [3, 8, 8]}}\nlimit: 2")
    assert arguments(tmp_path / "settings.yaml") == [
        '--saliency={"method": "Occlusion", "arguments": {"strides": [3, 8, 8]}}',
        "--limit=2",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "does not hold a mapping"),
        ("a: [", "neither YAML nor JSON"),
        ("trainer: {callbacks: []}", "has no callback foveate.integrations"),
        ("trainer: {callbacks: EarlyStopping}", "has no callback foveate.integrations"),
        (None, "No such file"),
    ],
)
def test_what_is_not_a_configuration(text, words, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["evaluate", "x", "--config", str(path)]) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert complaint.count("\n") == 1


def test_an_option_that_is_not_there(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("color: red")
    assert main(["evaluate", str(tmp_path), "--model", NET, "--config", str(tmp_path / "settings.yaml")]) == 2
    assert "--color=red" in capsys.readouterr().err
