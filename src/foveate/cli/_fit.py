"""``foveate fit``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli._models import device_of, is_editor, preprocess_of_spec
from foveate.cli._options import Commands, add_formats, add_preprocessing, codec_name, existing_folder, model_name
from foveate.cli._output import complain, progress_bars
from foveate.cli._samples import first_readable

if TYPE_CHECKING:
    import torch

    from foveate.evaluation import SampleFolder


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fit",
        help="train an editor: a small network that edits in one pass, for --edit-with",
        description="Train a small network on pictures of the kind that is to be compressed, so that what it gives "
        "takes fewer bytes and the models see the same. Use it as '--edit-with FILE' or foveate.PreEdit(FILE). "
        "It takes milliseconds an image where an edit by gradient takes seconds, and keeps less. Labels have no part.",
        epilog="example: foveate fit PHOTOS --model resnet18 --out edit.safetensors",
    )
    parser.add_argument("images", metavar="IMAGES", type=existing_folder, help="folder with subfolders of images")
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="M",
        action="append",
        required=True,
        help="what shall see the same; may be given again",
    )
    parser.add_argument(
        "--codec", type=codec_name, default="jpeg", help="short string; all its qualities (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=4000, help="of the training (default: %(default)s)")
    parser.add_argument(
        "--edit-limit",
        type=float,
        default=30.0,
        metavar="DB",
        help="least PSNR of an edit (default: %(default)g; 0 sets none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, spread evenly over the folders")
    parser.add_argument("--device", help="of the models, such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, default=Path("edit.safetensors"), help="file (default: %(default)s)")
    add_formats(parser)
    add_preprocessing(parser)
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Check the options, and build the models; return the job."""
    from foveate._checks import check_count, check_number
    from foveate.codecs import as_codec
    from foveate.codecs.proxy import proxy_for
    from foveate.evaluation import SampleFolder
    from foveate.models import LazyClassifier
    from foveate.preedit import fit

    if not is_editor(args.out.name):
        raise ValueError(f"--out: expected a file that ends in .safetensors, got {str(args.out)!r}")
    samples = SampleFolder(args.images, args.limit, args.formats)
    codec = as_codec(args.codec)
    codec.library()
    proxy_for(codec)  # raises where it has no stand-in
    check_count("steps", args.steps)
    limit = check_number("--edit-limit", args.edit_limit, 0) or None
    models = [LazyClassifier(spec, preprocess_of_spec(spec, args)) for spec in args.model]
    for model in models:
        model.classifier.model.to(device_of(args.device))
    first_readable(samples)

    def job() -> None:
        with progress_bars() as show:
            editor = fit(
                _Readable(samples), models, codec, steps=args.steps, limit=limit, seed=args.seed, progress=show
            )
        editor.save(args.out)
        print(f"wrote {args.out}: use it as '--edit-with {args.out}' or foveate.PreEdit({str(args.out)!r})")

    return job


class _Readable:
    """The images of a folder; in place of one that cannot be read, the next."""

    def __init__(self, samples: "SampleFolder") -> None:
        self._samples = samples
        self._named: set[int] = set()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> "torch.Tensor":
        from foveate.evaluation import UnreadableError

        for k in range(index, index + len(self)):
            place = k % len(self)
            try:
                return self._samples[place].image
            except UnreadableError as error:
                if place not in self._named:
                    self._named.add(place)
                    complain(f"skipped {error}")
        raise ValueError(f"{self._samples.root}: no image can be read")
