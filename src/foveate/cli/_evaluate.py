"""``foveate evaluate``."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate._files import printable, write_bytes, write_text
from foveate.cli._command import compress_command
from foveate.cli._models import (
    build_classifier,
    build_prefilter,
    build_saliency,
    controlled_prefilter,
    device_of,
    edits,
    is_editor,
    source_of_preprocessing,
    witness_of,
)
from foveate.cli._options import (
    Commands,
    add_formats,
    add_prefilter,
    add_preprocessing,
    add_saliency,
    codec_name,
    existing_file,
    existing_folder,
    keep_name,
    model_name,
    new_file,
    number,
    numbers,
    share,
    strength,
    witness_name,
)
from foveate.cli._output import print_where
from foveate.cli._samples import first_readable, say_answers

if TYPE_CHECKING:
    from foveate.codecs import Codec
    from foveate.compressor import Compressor
    from foveate.evaluation import Judge, SampleFolder
    from foveate.saliency import Saliency


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="rate and accuracy on your images, for your classifiers",
        description="Compress whole images, decode them, and ask classifiers again. A model is a torchvision name (its "
        "default pretrained weights), timm:NAME, hf:ORG/NAME, FILE.py:FUNCTION[:ARGUMENT] or "
        "package.module:FUNCTION[:ARGUMENT].",
        epilog="example: foveate evaluate PHOTOS --model resnet18 --codec webp --strength 0 --keep same --limit 200",
    )
    parser.add_argument(
        "images", metavar="IMAGES", type=existing_folder, help="folder with one subfolder of images a class"
    )
    parser.add_argument(
        "--model", type=model_name, metavar="M", required=True, help="makes the saliency maps, and judges"
    )
    parser.add_argument(
        "--judge",
        type=model_name,
        metavar="M",
        action="append",
        default=[],
        help="judges too; may be given several times",
    )
    _add_points(parser)
    _add_rate_control(parser)
    parser.add_argument("--fidelity", action="store_true", help="measure PSNR and MS-SSIM too")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of the images and the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap for the intervals (default: %(default)s)"
    )
    parser.add_argument("--device", help="of the models, such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, spread evenly over the classes")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("foveate-report"),
        help="folder to write to; a run that was interrupted goes on from what is there (default: %(default)s)",
    )
    _add_output(parser)
    add_formats(parser)
    add_preprocessing(parser)
    parser.set_defaults(prepare=prepare)


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output", "besides report.html and results.json in --out")
    group.add_argument("--csv", type=new_file, metavar="FILE", help="write every point there, a line for each judge")
    group.add_argument(
        "--plot",
        type=plot_file,
        metavar="FILE",
        help="draw rate against agreement there, for each judge: FILE.pdf, .png or .svg",
    )
    group.add_argument("--json", action="store_true", help="print results.json instead of the table")
    group.add_argument("--quiet", action="store_true", help="print the answer alone: no progress, no table")


def plot_file(text: str) -> Path:
    """Read the path of a figure, whose ending says its format."""
    path = Path(text)
    if path.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .pdf, .png or .svg, got {text}")
    return new_file(text)


def _add_points(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("operating points", "every codec is measured at each quality, strength and scale")
    group.add_argument(
        "--codec",
        type=codec_name,
        action="append",
        help="short string such as jpeg, avif:speed=6 or hevc:roi=8; may be given several times (default: jpeg)",
    )
    group.add_argument(
        "--quality",
        type=numbers(number),
        help="default: that of the codec's string, or else a few of its own (jpeg: 12,25,50,75), and coarser ones "
        "while those keep 98 %% of the answers",
    )
    group.add_argument(
        "--strength", type=numbers(strength), default=[0.0, 0.5], help="of the pre-filter, default: 0,0.5"
    )
    group.add_argument("--scale", type=numbers(share), default=[1.0], help="stored side over source side, default: 1")
    add_prefilter(parser)
    add_saliency(parser)
    group.add_argument(
        "--baselines",
        action="store_true",
        help="measure what saliency must beat too: the same smoothing spread evenly, a center-weighted map, another "
        "image's map, and plain downscaling; of --keep robust, the same without any network, with another image's "
        "distances, and by the witnesses' least closeness",
    )


def _add_rate_control(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "rate control", "choose the point for each image, so that a network's answer stays"
    )
    group.add_argument(
        "--keep",
        type=lambda text: [keep_name(part) for part in text.split(",")],
        default=[],
        metavar="CRITERIA",
        help="choose strength, scale and quality for each image too, so that the witnesses' answers are kept: same "
        "(the class; top1), confident (with 0.9 of its confidence; p0.9), safe (nearly all that the answer says; "
        "kl0.3), or margin1, robust0.2, robust95; several joined by + for all at once, by commas for a point each",
    )
    group.add_argument(
        "--witness",
        type=witness_name,
        metavar="M",
        action="append",
        default=[],
        help="whose answer --keep keeps; may be given several times (default: that of --model)",
    )
    group.add_argument("--floor", type=number, help="coarsest quality that --keep may choose")
    group.add_argument(
        "--calibration",
        type=existing_file,
        metavar="FILE",
        help="what 'foveate calibrate' learned: --keep then tries fewer",
    )


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Check the options, and build the models; return the job."""
    args.codec = args.codec or ["jpeg"]
    codecs = list(dict.fromkeys(_at_each_quality(args.codec, args.quality)))
    for codec in codecs:
        codec.library()
    if args.resamples < 1:
        raise ValueError(f"--resamples: expected at least 1, got {args.resamples}")

    from foveate.evaluation import SampleFolder, baselines_for  # with torch, which takes seconds

    samples = SampleFolder(args.images, args.limit, args.formats)
    witnesses = (args.witness or [args.model]) if args.keep else []
    judges = _judges(args, [*witnesses, *_edited_for(args)])
    maker = judges[0].classifier
    saliency = build_saliency(args, maker.model, maker.preprocess)
    if saliency.uses_labels:
        raise ValueError("--saliency: the maps depend on a label, or a class from outside; leave out its target")
    compressors = _points(args, codecs, saliency)
    if args.keep:
        compressors += _controlled(args, codecs, witnesses, saliency)
    if args.baselines:
        compressors += baselines_for(compressors)
    _number_classes(samples, judges)
    first = first_readable(samples)
    if any(args.strength) or any(codec.needs_saliency for codec in codecs):
        saliency(first.image[None])  # a model or a layer without a map is noticed now, not midway
    settings, lead = _recorded(args, codecs, saliency), _lead(args, judges, saliency)
    sources = [source_of_preprocessing(spec, args) for spec in dict.fromkeys([args.model, *args.judge])]

    def job() -> None:
        fed = zip((judge.classifier for judge in judges), sources, strict=True)
        say_answers(fed, samples)
        _report(args, samples, judges, compressors, settings, lead)

    return job


def _number_classes(samples: "SampleFolder", judges: "Sequence[Judge]") -> None:
    """Give each class folder its number among the judges' outputs.

    Raises:
        ValueError: if the judges do not have the same classes.
    """
    outputs = {judge.classifier.num_classes() for judge in judges}
    if len(outputs) > 1:
        raise ValueError(f"--judge: the judges have different numbers of classes: {sorted(outputs)}")
    numbers = []
    for names in dict.fromkeys(judge.classifier.class_names for judge in reversed(judges)):
        samples.number_classes(max(outputs), names)
        numbers.append(samples.labels)
    if any(labels != numbers[0] for labels in numbers):
        raise ValueError("--judge: the judges' classes come in different orders")


def _report(
    args: argparse.Namespace,
    samples: "SampleFolder",
    judges: "Sequence[Judge]",
    compressors: "Sequence[Compressor]",
    settings: dict[str, Any],
    lead: str,
) -> None:
    """Evaluate, and print the table."""
    from foveate.codecs import as_codec
    from foveate.evaluation import evaluate, plots
    from foveate.evaluation.report import text_answer, text_table

    command = partial(compress_command, args)
    evaluation = evaluate(
        samples,
        judges,
        compressors,
        args.out,
        settings=settings,
        fidelity=args.fidelity,
        as_stored=True,  # as readers of the files get them that the printed command writes
        seed=args.seed,
        resamples=args.resamples,
        lead=lead,
        coarser=[] if args.quality else [as_codec(text).family for text in args.codec if not _names_quality(text)],
        command=command,
        progress=not args.quiet,
    )
    results = evaluation.results
    if args.csv is not None:
        write_text(args.csv, results.to_csv())
    if args.plot is not None:
        drawn = io.BytesIO()
        plots.rate_accuracy_of_all(results).savefig(drawn, format=args.plot.suffix[1:].lower(), dpi=200)
        write_bytes(args.plot, drawn.getvalue())
    cheapest = evaluation.cheapest()
    line = None if cheapest is None else command(cheapest)
    skipped = results.skipped
    for name, reason in skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if args.json:
        print(results.to_json(), end="")
        return
    print(text_answer(results, line) if args.quiet else text_table(results, command=line))
    if args.quiet:
        return
    if skipped:
        print(f"{len(skipped)} of {len(samples)} files could not be read, or not compressed, and were left out")
    print_where(args.out)


def _lead(args: argparse.Namespace, judges: "Sequence[Judge]", saliency: "Saliency") -> str:
    """The head of the report."""
    from foveate.saliency import LayerSaliency

    names = [judge.name for judge in judges]
    maker = f"{names[0]}'s own" if isinstance(saliency, LayerSaliency) else f"by {type(saliency).__name__}"
    return (
        f"Whole images from {args.images}, compressed, decoded, and shown to {' and '.join(names)} at the size at "
        f"which they are stored. The maps are {maker}."
    )


def _judges(args: argparse.Namespace, others: Sequence[str]) -> "list[Judge]":
    """The classifiers, the one that makes the maps first; others that have a part in what is judged are known too."""
    from foveate.evaluation import Judge

    specs = dict.fromkeys([args.model, *args.judge])
    classifiers = {spec: build_classifier(spec, args) for spec in specs}
    involved = {args.model, *others}
    judges = [Judge(classifier, bool({spec, classifier.name} & involved)) for spec, classifier in classifiers.items()]
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise ValueError(f"--judge: two judges have the same name: {', '.join(names)}")
    return judges


def _edited_for(args: argparse.Namespace) -> list[str]:
    """Return the networks that the pre-filter edits for, by name where an editor learned from them."""
    from foveate.preedit import DEFAULT_MODELS, Editor

    if not edits(args):
        return []
    return [
        name
        for spec in args.edit_with or DEFAULT_MODELS
        for name in (Editor.load(spec).networks if is_editor(spec) else [spec])
    ]


def _points(args: argparse.Namespace, codecs: "Sequence[Codec]", saliency: "Saliency") -> "list[Compressor]":
    """A compressor for each strength, scale and codec that was asked for."""
    from foveate.compressor import Compressor

    # A rate control is compared with the codec alone at full size, so --keep adds that.
    strengths = dict.fromkeys([*([0.0] if args.keep else []), *args.strength])
    scales = dict.fromkeys([*([1.0] if args.keep else []), *args.scale])
    return [
        Compressor(
            codec,
            build_prefilter(args, saliency, strength) if strength else None,
            scale=scale,
            saliency=saliency if codec.needs_saliency else None,
        )
        for strength in strengths
        for scale in scales
        for codec in codecs
    ]


def _controlled(
    args: argparse.Namespace, codecs: "Sequence[Codec]", witnesses: Sequence[str], saliency: "Saliency"
) -> "list[Compressor]":
    """A compressor with a rate control for each codec and each criterion."""
    from foveate.compressor import Compressor
    from foveate.rate_control import Calibration, RateControl

    calibration = None if args.calibration is None else Calibration.load(args.calibration)
    by_recipe = [witness_of(spec, args) for spec in witnesses]
    prefilter, strengths = controlled_prefilter(args, saliency)
    controls = [
        RateControl(by_recipe, keep, strengths=strengths, floor=args.floor, calibration=calibration, as_stored=True)
        for keep in dict.fromkeys(args.keep)
    ]
    controls[0].to(device_of(args.device))  # the others have the same witnesses
    return [
        Compressor(codec, prefilter, saliency=saliency if codec.needs_saliency else None, control=control)
        for codec in {codec.family: codec for codec in codecs}.values()
        for control in controls
    ]


def _recorded(args: argparse.Namespace, codecs: "Sequence[Codec]", saliency: "Saliency") -> dict[str, Any]:
    """The options, for the results."""
    from foveate.saliency import LayerSaliency

    settings = {name: _as_recorded(value) for name, value in vars(args).items() if name not in ("prepare", "root")}
    layer = saliency.layer_name if isinstance(saliency, LayerSaliency) else None
    settings |= {"codec": [str(codec) for codec in codecs], "layer": layer}
    for name in (
        "quality",
        "out",
        "device",
        "config",
        "csv",
        "plot",
        "json",
        "quiet",
    ):  # the first is in the codecs; the others change no figure
        del settings[name]
    return settings


def _as_recorded(value: Any) -> Any:
    """An option's value for the results: paths, which may not be UTF-8, as text that is."""
    if isinstance(value, list | tuple):
        return [_as_recorded(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_recorded(item) for key, item in value.items()}
    return printable(str(value)) if isinstance(value, Path | str) else value


def _at_each_quality(texts: Sequence[str], qualities: Sequence[float] | None) -> "list[Codec]":
    """Each codec at the qualities asked for, at the one its string names, or at its ladder."""
    from foveate.codecs import as_codec

    codecs = []
    for text in texts:
        codec = as_codec(text)
        default = [codec.quality] if _names_quality(text) else codec.qualities()
        codecs += [codec.with_quality(quality) for quality in qualities or default]
    return codecs


def _names_quality(text: str) -> bool:
    """Whether the short string of a codec has a quality in it."""
    knobs = filter(None, text.partition(":")[2].split(","))
    return any("=" not in knob or knob.startswith("quality=") for knob in knobs)
