"""The command line: ``foveate demo | evaluate | compress | verify | saliency | calibrate | compare | codecs``."""

import argparse
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate import __version__
from foveate._files import printable

if TYPE_CHECKING:
    import torch

    from foveate.codecs import Codec
    from foveate.compressor import Compressor
    from foveate.evaluation import Sample, SampleFolder
    from foveate.export import Summary
    from foveate.models import Classifier, Preprocess
    from foveate.prefilter import Prefilter
    from foveate.rate_control import Witness
    from foveate.saliency import LayerSaliency, Saliency


_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: as on the command line, without the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 2 when the input is at fault (with one line on standard error that says how); 130 when it was
        interrupted; or 141 when who reads its output went away, as ``head`` does.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _unread():
            raise
        return 141  # as of a program that the signal ended, which Python passes over


def _unread() -> bool:
    """Whether the other end of standard output is closed; then what is left for it goes nowhere."""
    stream = select.poll()
    stream.register(sys.stdout, 0)
    if not stream.poll(0):  # which tells of errors only: the pipe that broke was another
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        words = _with_config(words)
    except (ValueError, OSError) as error:
        _complain(f"foveate: error: {error}")
        return 2
    args = _parser().parse_args(words)
    try:
        job = args.prepare(args)
    except _EXPECTED as error:
        # Preparing runs nothing but what the user gave, so what goes wrong there is told, not traced.
        _complain(f"foveate: error: {error}")
        return 2
    try:
        return int(job() or 0)
    except KeyboardInterrupt:
        print("\nfoveate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foveate",
        description="Make images cheap to send and store for the network that will look at them.",
    )
    parser.add_argument("--version", action="version", version=f"foveate {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the main job on generated scenes, with no network and no data")
    demo.add_argument(
        "--out", type=Path, default=Path("foveate-demo"), help="folder to write to (default: %(default)s)"
    )
    demo.add_argument("--scenes", type=int, default=200, help="number of scenes (default: %(default)s)")
    demo.add_argument("--strength", type=float, default=0.5, help="of the pre-filter, 0 to 1 (default: %(default)s)")
    demo.set_defaults(prepare=_demo)

    evaluate = commands.add_parser(
        "evaluate",
        help="rate and accuracy on your photos, for your classifiers",
        description="Compress whole photos, decode them, and ask classifiers again. A model is a torchvision name (its "
        "default pretrained weights), FILE.py:FUNCTION[:ARGUMENT] or package.module:FUNCTION[:ARGUMENT].",
    )
    evaluate.add_argument("images", metavar="IMAGES", type=Path, help="folder with one subfolder of photos a class")
    evaluate.add_argument("--model", metavar="M", required=True, help="makes the saliency maps, and judges")
    evaluate.add_argument(
        "--judge", metavar="M", action="append", default=[], help="judges too; may be given several times"
    )
    evaluate.add_argument(
        "--codec",
        action="append",
        help="short string such as jpeg, avif:speed=6 or hevc:roi=8; may be given several times (default: jpeg)",
    )
    evaluate.add_argument(
        "--quality",
        type=_numbers(_number),
        help="default: that of the codec's string, or else a few of its own (jpeg: 12,25,50,75)",
    )
    evaluate.add_argument(
        "--strength", type=_numbers(float), default=[0.0, 0.5], help="of the pre-filter, default: 0,0.5"
    )
    evaluate.add_argument(
        "--scale", type=_numbers(float), default=[1.0], help="stored side over source side, default: 1"
    )
    evaluate.add_argument("--filter", default="blend", help="blend, scale-space or guided (default: %(default)s)")
    evaluate.add_argument(
        "--sigma", type=float, default=1.5, help="width of the smoothing, see foveate.Prefilter (default: %(default)s)"
    )
    _add_saliency(evaluate)
    evaluate.add_argument(
        "--controls",
        action="store_true",
        help="measure what saliency must beat too: the same smoothing spread evenly, a center-weighted map, another "
        "picture's map, and plain downscaling",
    )
    evaluate.add_argument(
        "--keep",
        type=lambda text: text.split(","),
        default=[],
        metavar="CRITERIA",
        help="choose strength, scale and quality for each photo too, so that the witnesses' answers are kept: top1, "
        "p0.9, kl0.2, margin1 or robust0.2, several joined by + for all at once, by commas for a point each",
    )
    evaluate.add_argument(
        "--witness",
        metavar="M",
        action="append",
        default=[],
        help="whose answer --keep keeps; may be given several times (default: that of --model)",
    )
    evaluate.add_argument("--floor", type=_number, help="coarsest quality that --keep may choose")
    evaluate.add_argument(
        "--calibration", type=Path, metavar="FILE", help="what 'foveate calibrate' learnt: --keep then tries fewer"
    )
    evaluate.add_argument("--fidelity", action="store_true", help="measure PSNR and MS-SSIM too")
    evaluate.add_argument(
        "--seed", type=int, default=0, help="of the order of the photos and the bootstrap (default: %(default)s)"
    )
    evaluate.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap for the intervals (default: %(default)s)"
    )
    evaluate.add_argument("--device", help="of the models, such as cpu or cuda (default: a GPU where there is one)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="at most N photos, spread evenly over the classes")
    evaluate.add_argument(
        "--out",
        type=Path,
        default=Path("foveate-report"),
        help="folder to write to; a run that was interrupted goes on from what is there (default: %(default)s)",
    )
    _add_formats(evaluate)
    _add_preprocessing(evaluate)
    evaluate.set_defaults(prepare=_evaluate)

    _add_export(commands)

    calibrate = commands.add_parser(
        "calibrate",
        help="learn from photos which operating points to try first, for --keep",
        description="Try every strength, scale and quality on some hundred photos and write down what it did to the "
        "witnesses' answers. Labels have no part in it. Use other photos than those to be reported on.",
    )
    calibrate.add_argument("images", metavar="IMAGES", type=Path, help="folder with subfolders of photos")
    calibrate.add_argument(
        "--witness", metavar="M", action="append", required=True, help="whose answer is kept; may be given again"
    )
    calibrate.add_argument("--model", metavar="M", help="makes the saliency maps (default: the first witness)")
    calibrate.add_argument("--codec", default="jpeg", help="short string (default: %(default)s)")
    calibrate.add_argument(
        "--strength", type=_numbers(float), default=[0.0, 0.5], help="of the pre-filter, default: 0,0.5"
    )
    calibrate.add_argument("--limit", type=int, metavar="N", help="at most N photos, spread evenly over the folders")
    calibrate.add_argument("--device", help="of the models, such as cpu or cuda (default: a GPU where there is one)")
    calibrate.add_argument("--out", type=Path, default=Path("calibration.json"), help="file (default: %(default)s)")
    _add_formats(calibrate)
    _add_preprocessing(calibrate)
    calibrate.set_defaults(prepare=_calibrate)

    compare = commands.add_parser(
        "compare",
        help="the difference between two evaluations, with intervals",
        description="Compare two evaluations on the pictures of both, paired: did a change help?",
    )
    compare.add_argument("a", metavar="A", type=Path, help="results.json of the first, or its folder")
    compare.add_argument("b", metavar="B", type=Path, help="results.json of the second, or its folder")
    compare.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    compare.set_defaults(prepare=_compare)

    codecs = commands.add_parser("codecs", help="the codecs, their settings, and which are installed")
    codecs.set_defaults(prepare=_codecs)
    return parser


def _add_export(commands: Any) -> None:
    compress = commands.add_parser(
        "compress",
        help="a whole dataset into a smaller one that any tool reads",
        description="Compress a folder of pictures, tar shards or a saved Hugging Face dataset, here or behind a URL. "
        "The source is never written to; a run that was stopped goes on with the same command.",
    )
    compress.add_argument("source", metavar="SRC", help="folder, .tar, folder of .tar, or URL (s3://...)")
    compress.add_argument("target", metavar="DST", help="new folder, or that of an earlier run, or URL")
    compress.add_argument("--codec", default="webp", help="short string, such as jpeg:40 (default: %(default)s)")
    compress.add_argument("--model", metavar="M", help="makes the saliency maps (default: no pre-filter)")
    compress.add_argument(
        "--strength",
        type=_numbers(float),
        help="of the pre-filter, 0 to 1; with --keep several to choose from (default: 0.5 with --model, else 0)",
    )
    compress.add_argument("--scale", type=float, default=1.0, help="stored side over source side (default: 1)")
    compress.add_argument("--filter", default="blend", help="blend, scale-space or guided (default: %(default)s)")
    compress.add_argument("--sigma", type=float, default=1.5, help="width of the smoothing (default: %(default)s)")
    _add_saliency(compress)
    compress.add_argument(
        "--keep", metavar="CRITERIA", help="choose strength, scale and quality for each picture, see 'foveate evaluate'"
    )
    compress.add_argument(
        "--witness", metavar="M", action="append", default=[], help="whose answer --keep keeps (default: --model)"
    )
    compress.add_argument("--floor", type=_number, help="coarsest quality that --keep may choose")
    compress.add_argument("--calibration", type=Path, metavar="FILE", help="what 'foveate calibrate' learnt")
    compress.add_argument(
        "--only-if-smaller", action="store_true", help="keep the source's own bytes where they are not more"
    )
    compress.add_argument(
        "--others",
        choices=("copy", "skip", "refuse"),
        default="copy",
        help="what to do with what is no readable picture (default: %(default)s)",
    )
    compress.add_argument("--shards", action="store_true", help="write tar shards (WebDataset) instead of a tree")
    compress.add_argument("--part", type=int, metavar="N", help="pictures in a shard, or done at a time (1000, or 64)")
    compress.add_argument(
        "--cache", type=Path, metavar="DIR", help="make the maps first, in batches, and keep them there"
    )
    compress.add_argument(
        "--workers", type=int, metavar="N", help="processes; 0: this one (default: one a CPU; with Ray, less one)"
    )
    compress.add_argument("--device", help="of the models, such as cuda (default: cpu)")
    compress.add_argument("--engine", choices=("local", "ray"), default="local", help="default: %(default)s")
    compress.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="that a worker process may hold (default: its share of the machine's)",
    )
    compress.add_argument(
        "--moved", action="store_true", help="the source is the one that DST was made from, in another place"
    )
    _add_source(compress)
    compress.add_argument("--gpus", type=float, default=0.0, help="with Ray: share of a GPU a worker (default: 0)")
    _add_preprocessing(compress)
    compress.set_defaults(prepare=_compress)

    verify = commands.add_parser("verify", help="check what 'foveate compress' wrote, byte for byte, and decode it")
    verify.add_argument("target", metavar="DST", help="folder or URL")
    verify.add_argument("--root", metavar="DIGEST", help="what 'foveate compress' printed, kept elsewhere")
    verify.add_argument("--threads", type=int, default=4, help="files read at once (default: %(default)s)")
    verify.set_defaults(prepare=_verify)

    saliency = commands.add_parser(
        "saliency",
        help="the saliency maps of a dataset, in batches, into a cache",
        description="Make the maps that foveate.CachedSaliency(CACHE) serves to any transform, and 'foveate compress "
        "--cache CACHE' uses. Maps that are there already are not made again.",
    )
    saliency.add_argument("source", metavar="SRC", help="as for 'foveate compress'")
    _add_source(saliency)
    saliency.add_argument("cache", metavar="CACHE", type=Path, help="folder")
    saliency.add_argument("--model", metavar="M", required=True, help="makes the maps")
    _add_saliency(saliency)
    saliency.add_argument("--batch", type=int, default=16, help="pictures of one size at once (default: %(default)s)")
    saliency.add_argument("--workers", type=int, default=0, help="processes that read pictures (default: %(default)s)")
    saliency.add_argument("--device", help="of the model, such as cuda (default: a GPU where there is one)")
    _add_preprocessing(saliency)
    saliency.set_defaults(prepare=_saliency)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="NAMES",
        help="of Pillow's formats to open besides the usual ones, such as DDS,PSD",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds that a picture may take (default: 60)"
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="take what links of SRC lead to outside of it (default: an error)"
    )


def _add_saliency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--saliency", choices=("grad-cam", "activation"), default="grad-cam")
    parser.add_argument("--layer", help="dotted name of the layer for the map (default: found by tracing)")


def _add_formats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAMES",
        help="further formats of Pillow to read, such as PSD,DDS, where the files are trusted (default: none)",
    )


def _with_config(words: list[str]) -> list[str]:
    """The words of a command with those of its ``--config`` before its own, which then have the last say."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    if not words or words[0] not in ("evaluate", "calibrate", "compress", "saliency"):
        return words
    found, rest = finder.parse_known_args(words[1:])
    if found.config is None:
        return words
    from foveate._config import arguments

    return [words[0], *arguments(found.config), *rest]


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML or JSON with options by name, or that of a LightningCLI with a CompressionRobustness callback; "
        "options given here as well override it, and those that may be given several times add to it",
    )
    own = parser.add_argument_group("preprocessing of models that are not torchvision's own")
    own.add_argument("--resize", type=int, default=256, help="short side in pixels (default: %(default)s)")
    own.add_argument("--crop", type=int, default=224, help="side of the center crop (default: %(default)s)")
    own.add_argument("--mean", type=_numbers(float), help="three numbers (default: ImageNet's)")
    own.add_argument("--std", type=_numbers(float), help="three numbers (default: ImageNet's)")


def _number(text: str) -> float:
    """An integer where the text is one: most codecs have no other qualities."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None

    return parse


def _demo(args: argparse.Namespace) -> Callable[[], None]:
    from foveate.demo.run import run
    from foveate.evaluation.report import text_table

    if args.scenes < 10:
        raise ValueError(f"--scenes: expected at least 10, one a class, got {args.scenes}")
    if not 0 < args.strength <= 1:
        raise ValueError(f"--strength: expected a number in (0, 1], got {args.strength}")

    def job() -> None:
        results = run(args.out, args.scenes, args.strength)
        print(text_table(results, metric="top1"))
        _say_where(args.out)

    return job


def _evaluate(args: argparse.Namespace) -> Callable[[], None]:
    from foveate.compressor import Compressor
    from foveate.evaluation import Judge, SampleFolder, baselines_for, evaluate
    from foveate.evaluation.report import text_table
    from foveate.prefilter import Prefilter
    from foveate.saliency import ActivationMap, GradCam

    codecs = list(dict.fromkeys(_at_each_quality(args.codec or ["jpeg"], args.quality)))
    for each in codecs:
        each.library()
    photos = SampleFolder(args.images, args.limit, args.formats)
    if args.resamples < 1:
        raise ValueError(f"--resamples: expected at least 1, got {args.resamples}")
    witnesses = (args.witness or [args.model]) if args.keep else []
    specs = list(dict.fromkeys([args.model, *args.judge]))
    judges = [Judge(_classifier(spec, args), spec in (args.model, *witnesses)) for spec in specs]
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise ValueError(f"--judge: two judges are called alike: {', '.join(names)}")
    maker = judges[0].classifier
    how = {"preprocess": maker.preprocess.whole(), "layer": args.layer}
    saliency = {"grad-cam": GradCam, "activation": ActivationMap}[args.saliency](maker.model, **how)
    compressors = [
        Compressor(
            each, Prefilter(saliency, strength, args.filter, args.sigma) if strength else None, scale, None, saliency
        )
        # A control is compared with the codec alone, so that is always there.
        for strength in dict.fromkeys([*([0.0] if args.keep else []), *args.strength])
        for scale in dict.fromkeys([*([1.0] if args.keep else []), *args.scale])
        for each in codecs
    ]
    if args.keep:
        compressors += _controlled(args, codecs, witnesses, saliency)
    if args.controls:
        compressors += baselines_for(compressors)
    outputs = {judge.classifier.classes() for judge in judges}
    if len(outputs) > 1:
        raise ValueError(f"--judge: the judges have different numbers of classes: {sorted(outputs)}")
    photos.number_classes(outputs.pop())
    first = _first(photos)
    if any(args.strength) or any(each.needs_saliency for each in codecs):
        saliency(first.pixels[None])  # a model or a layer without a map is found out now, not midway

    def job() -> None:
        settings = {k: _as_recorded(v) for k, v in vars(args).items() if k != "prepare"}
        settings |= {"codec": [str(each) for each in codecs], "layer": saliency.layer_name}
        for name in ("quality", "out", "device", "config"):  # the first is in the codecs; the others change no figure
            del settings[name]
        lead = (
            f"Whole photos from {args.images}, compressed, decoded, and shown to {' and '.join(names)}. The maps are "
            f"{names[0]}'s own."
        )
        found = evaluate(
            photos, judges, compressors, args.out, settings, args.fidelity, args.seed, args.resamples, lead=lead
        )
        for name, reason in found.results.skipped:
            print(f"skipped {name}: {reason}", file=sys.stderr)
        print(text_table(found.results))
        if skipped := len(found.results.skipped):
            print(f"{skipped} of {len(photos)} files could not be read, or not compressed, and were left out")
        _say_where(args.out)

    return job


def _as_recorded(value: Any) -> Any:
    """An option's value for the results: paths, which may be no UTF-8, as text that is."""
    if isinstance(value, list):
        return [_as_recorded(one) for one in value]
    return printable(str(value)) if isinstance(value, Path | str) else value


def _controlled(
    args: argparse.Namespace, codecs: "Sequence[Codec]", witnesses: Sequence[str], saliency: "Saliency"
) -> "list[Compressor]":
    """A compressor with a control for each codec and each criterion."""
    from foveate.compressor import Compressor
    from foveate.rate_control import Calibration, RateControl

    calibration = None if args.calibration is None else Calibration.load(args.calibration)
    chosen = [_witness(spec, args) for spec in witnesses]
    prefilter, strengths = _strengths(args, saliency)
    return [
        Compressor(
            each,
            prefilter,
            saliency=saliency,
            control=RateControl(chosen, keep, strengths=strengths, floor=args.floor, calibration=calibration),
        )
        for each in {each.family: each for each in codecs}.values()
        for keep in dict.fromkeys(args.keep)
    ]


def _strengths(args: argparse.Namespace, saliency: "Saliency") -> "tuple[Prefilter | None, list[float]]":
    """The pre-filter of a control, and the strengths it chooses from; none where none is above 0."""
    from foveate.prefilter import Prefilter

    strengths = sorted({0.0, *args.strength})
    how = (args.filter, args.sigma) if hasattr(args, "filter") else ()
    return (Prefilter(saliency, strengths[-1], *how) if len(strengths) > 1 else None), strengths


def _calibrate(args: argparse.Namespace) -> Callable[[], None]:
    from tqdm import tqdm

    from foveate.codecs import as_codec
    from foveate.compressor import Compressor
    from foveate.evaluation import SampleFolder
    from foveate.rate_control import RateControl
    from foveate.saliency import GradCam

    photos = SampleFolder(args.images, args.limit, args.formats)
    each = as_codec(args.codec)
    each.library()
    maker = _classifier(args.model or args.witness[0], args)
    saliency = GradCam(maker.model, preprocess=maker.preprocess.whole())
    prefilter, strengths = _strengths(args, saliency)
    control = RateControl([_witness(spec, args) for spec in args.witness], strengths=strengths)
    compressor = Compressor(each, prefilter, saliency=saliency)
    control.check(compressor)
    _first(photos)

    def job() -> None:
        with tqdm(total=len(photos), desc="photos", unit="photo") as bar:
            found = control.calibrate(compressor, _readable(photos), bar.update)
        found.save(args.out)
        print(f"wrote {args.out}: {len(found.points)} operating points on {len(found.bits)} photos")

    return job


def _readable(photos: "SampleFolder") -> "Iterator[torch.Tensor]":
    from foveate.evaluation import UnreadableError

    for k in range(len(photos)):
        try:
            yield photos[k].pixels
        except UnreadableError as error:
            print(f"skipped {error}", file=sys.stderr)


def _own(args: argparse.Namespace) -> "Preprocess":
    """The preprocessing of models that are not torchvision's own."""
    from foveate.models import IMAGENET_MEAN, IMAGENET_STD, Preprocess

    return Preprocess(args.resize, args.crop, tuple(args.mean or IMAGENET_MEAN), tuple(args.std or IMAGENET_STD))


def _classifier(spec: str, args: argparse.Namespace) -> "Classifier":
    """The classifier that a short string names, on its device."""
    from foveate.models import load_classifier

    made = load_classifier(spec, _own(args) if ":" in spec else None)
    made.model.to(_device(args.device))
    return made


def _witness(spec: str, args: argparse.Namespace) -> "Witness":
    """The witness that a short string names, built already and on its device."""
    from foveate.rate_control import Witness

    made = Witness(spec, _own(args) if ":" in spec else None)
    made.classifier.model.to(_device(args.device))
    return made


def _first(photos: "SampleFolder") -> "Sample":
    """The first photo that can be read."""
    from foveate.evaluation import UnreadableError

    unread: list[UnreadableError] = []
    for k in range(len(photos)):
        try:
            return photos[k]
        except UnreadableError as error:
            unread.append(error)
    raise ValueError(f"IMAGES: no file of {photos.root} is a readable picture, such as {unread[0]}")


def _device(name: str | None) -> "torch.device":
    """The device that was asked for, or a GPU where there is one."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: cannot use {name!r}: {str(error).splitlines()[0]}") from error


def _compress(args: argparse.Namespace) -> Callable[[], int]:
    from tqdm import tqdm

    from foveate import Progress
    from foveate.export import compress_dataset

    compressor = _exporter(args)
    compressor.codec.library()
    device = args.device  # with Ray of other machines than this one
    if device is not None and args.engine == "local":
        device = str(_device(device))

    def job() -> int:
        try:
            summary = compress()
        except _EXPECTED as error:  # a full disk, another run, a file that is refused, a driver that is not installed
            cure = "; the same command goes on from here" if isinstance(error, OSError) else ""
            _complain(f"foveate: error: {error}{cure}")
            return 1
        print(summary)
        print(f"root {summary.root}")
        for name in summary.missing:
            _complain(f"missing {name}")
        for reason in summary.failed:
            _complain(f"failed {reason}")
        return 1 if summary.kinds.get("failed") else 0

    def compress() -> "Summary":
        with (
            tqdm(desc="saliency", unit="picture", disable=args.cache is None) as maps,
            tqdm(desc="compress", unit="picture") as bar,
        ):

            def show(progress: Progress) -> None:
                before, after = progress.source_bytes, progress.bytes
                if before:
                    saved = tqdm.format_sizeof(before - after, "B", 1000)
                    bar.set_postfix_str(f"{saved} saved, {1 - after / before:.0%}", refresh=False)
                shown = maps if progress.stage == "saliency" else bar
                shown.total = progress.total
                shown.update(progress.done - shown.n)

            return compress_dataset(
                args.source,
                args.target,
                compressor,
                shards=args.shards,
                others=args.others,
                only_if_smaller=args.only_if_smaller,
                part=args.part,
                cache=args.cache,
                workers=args.workers,
                device=device,
                engine=args.engine,
                gpus=args.gpus,
                timeout=args.timeout,
                memory=None if args.memory is None else int(args.memory * 1e9),
                formats=args.formats,
                follow_links=args.follow_links,
                moved=args.moved,
                progress=show,
            )

    return job


def _exporter(args: argparse.Namespace) -> "Compressor":
    """The compressor of an export, its models by recipe."""
    from foveate.compressor import Compressor
    from foveate.prefilter import Prefilter
    from foveate.rate_control import Calibration, RateControl, Witness

    strengths = args.strength or [0.5 if args.model else 0.0]
    saliency = None if args.model is None else _maps_by(args)
    prefilter = None
    if max(strengths) > 0:
        if saliency is None:
            raise ValueError("--strength: the pre-filter needs --model to make maps")
        prefilter = Prefilter(saliency, max(strengths), args.filter, args.sigma)
    if args.keep is None:
        if len(strengths) > 1:
            raise ValueError(f"--strength: several are for --keep to choose from, got {strengths}")
        return Compressor(args.codec, prefilter, args.scale, saliency=saliency)
    if args.scale != 1:
        raise ValueError("--scale: --keep chooses it")
    specs = args.witness or [args.model]
    if specs == [None]:
        raise ValueError("--keep: whose answer? give --witness or --model")
    control = RateControl(
        [Witness(spec, _preprocess_of(spec, args)) for spec in specs],
        args.keep,
        strengths=sorted({0.0, *strengths}),
        floor=args.floor,
        calibration=None if args.calibration is None else Calibration.load(args.calibration),
        as_stored=True,
    )
    return Compressor(args.codec, prefilter, saliency=saliency, control=control)


def _maps_by(args: argparse.Namespace) -> "LayerSaliency":
    """The saliency that was asked for, its model by recipe."""
    from foveate.saliency import ActivationMap, GradCam

    kind = {"grad-cam": GradCam, "activation": ActivationMap}[args.saliency]
    return kind(args.model, layer=args.layer, preprocess=_preprocess_of(args.model, args).whole())


def _preprocess_of(spec: str, args: argparse.Namespace) -> "Preprocess":
    from foveate.models import preprocess_of

    return _own(args) if ":" in spec else preprocess_of(spec)


def _verify(args: argparse.Namespace) -> Callable[[], int]:
    from tqdm import tqdm

    from foveate.export import Summary, count_files, verify

    total = count_files(args.target)

    def job() -> int:
        with tqdm(total=total, desc="verify", unit="file") as bar:
            problems = verify(
                args.target, threads=args.threads, root=args.root, progress=lambda p: bar.update(p.done - bar.n)
            )
        for problem in problems:
            _complain(str(problem))
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            print(f"{count} with {total} files; the same 'foveate compress' again repairs what it can")
            return 1
        print(f"{total} files are as the manifest says, 0 are not")
        summary = Summary.load(args.target)
        print(f"root {summary.root if summary else 'unknown'}")
        return 0

    return job


def _complain(text: str) -> None:
    """Say something on standard error, whatever bytes a file's name in it has."""
    print(printable(text), file=sys.stderr)


def _saliency(args: argparse.Namespace) -> Callable[[], int]:
    from tqdm import tqdm

    from foveate.export import cache_maps

    saliency, device = _maps_by(args), str(_device(args.device))

    def job() -> int:
        try:
            make()
        except _EXPECTED as error:
            _complain(f"foveate: error: {error}")
            return 1
        return 0

    def make() -> None:
        with tqdm(desc="saliency", unit="picture") as bar:
            found = cache_maps(
                args.source,
                args.cache,
                saliency,
                batch=args.batch,
                workers=args.workers,
                device=device,
                formats=args.formats,
                follow_links=args.follow_links,
                timeout=args.timeout,
                progress=lambda p: bar.update(p.done - bar.n),
            )
        print(f"{found.images} images have maps in {args.cache}, {found.computed} made now")
        if found.unreadable:
            print(f"{found.unreadable} files could not be read", file=sys.stderr)

    return job


def _compare(args: argparse.Namespace) -> Callable[[], None]:
    from foveate.evaluation.runs import compare_runs, text

    changes = compare_runs(args.a, args.b, args.seed)
    return lambda: print(text(changes))


def _codecs(args: argparse.Namespace) -> Callable[[], None]:
    from dataclasses import fields

    from foveate.codecs import CODECS

    def job() -> None:
        for name, cls in CODECS.items():
            one = cls.parse("")
            knobs = ", ".join(f"{f.name}={f.default}" for f in fields(cls) if f.name != "quality")
            try:
                library = cls.library()
            except ImportError as error:
                library = f"not installed: {error}"
            print(f"{name:9} {library}")
            print(
                f"{'':9} quality {cls.scale[0]:g} (coarsest) to {cls.scale[-1]:g} (finest), {one.quality:g} unless said"
            )
            if knobs:
                print(f"{'':9} {knobs}")

    return job


def _at_each_quality(texts: Sequence[str], qualities: Sequence[float] | None) -> "list[Codec]":
    """Each codec at the qualities asked for, at the one its string names, or at its own ladder."""
    from foveate.codecs import as_codec

    found = []
    for text in texts:
        one = as_codec(text)
        parts = filter(None, text.partition(":")[2].split(","))
        own = any("=" not in part or part.startswith("quality=") for part in parts)
        named = [one.quality] if own else one.qualities()
        found += [one.with_quality(quality) for quality in qualities or named]
    return found


def _say_where(out: Path) -> None:
    print(printable(f"wrote {out / 'report.html'} and {out / 'results.json'}"))


if __name__ == "__main__":
    sys.exit(main())
