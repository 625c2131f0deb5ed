"""What a validation epoch with ``CompressionRobustness`` costs: ``python tests/benchmarks/bench_lightning.py``.

The measure is the whole epoch with k points against k forward passes, k times encoding and decoding, and the saliency
and the filter once, by hand, batch by batch; and what the callback adds to a plain epoch, against the same. All run in
turn, and the ratio is taken round by round. Prints one JSON object: medians, and the quartiles of the ratios.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import lightning.pytorch as L
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from foveate import Compressor, GradCam, Prefilter
from foveate.integrations.lightning import CompressionRobustness
from foveate.integrations.lightning._normalization import Normalization

NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.mobilenet_v2(weights=None)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--points", nargs="+", default=["jpeg:10", "jpeg:30", "webp:20"])
    parser.add_argument("--strength", nargs="+", type=float, default=[0.0, 0.5])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)

    torch.manual_seed(0)
    coarse = torch.rand(args.batch * args.batches, 3, 28, 28)
    images = torch.nn.functional.interpolate(coarse, size=224, mode="bicubic").clamp(0, 1)
    data = DataLoader(TensorDataset(NORMALIZATION(images), torch.zeros(len(images), dtype=torch.int64)), args.batch)
    module, batches = Net().eval(), list(images.split(args.batch))
    compressors = [Compressor(point) for point in args.points]

    def epoch(strength: float | None) -> None:
        callbacks = []
        if strength is not None:
            numbers = {"mean": list(NORMALIZATION.mean), "std": list(NORMALIZATION.std)}
            callbacks.append(CompressionRobustness(args.points, strength=strength, **numbers))
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=callbacks)
        trainer.validate(module, data, verbose=False)

    def parts(strength: float) -> None:
        prefilter = Prefilter(GradCam(module, preprocess=NORMALIZATION), strength)
        for batch in batches:
            filtered = prefilter(batch) if strength else batch
            for compressor in compressors:
                decoded = torch.stack(compressor.decode(compressor.encode(filtered))).float() / 255
                with torch.inference_mode():
                    module(NORMALIZATION(decoded))

    report = {"torch": torch.__version__, "threads": torch.get_num_threads(), **vars(args)}
    for strength in args.strength:
        epoch(strength), parts(strength), epoch(None)
        rows = []
        for _ in range(args.repeats):
            ours, plain, by_hand = seconds(lambda: epoch(strength)), seconds(lambda: epoch(None)), None  # noqa: B023
            by_hand = seconds(lambda: parts(strength))  # noqa: B023
            rows.append((ours, plain, by_hand))
        added = statistics.quantiles([(ours - plain) / by_hand for ours, plain, by_hand in rows], n=4)
        whole = statistics.quantiles([ours / by_hand for ours, _, by_hand in rows], n=4)
        report[f"strength {strength:g}"] = {
            "epoch_s": round(statistics.median(row[0] for row in rows), 3),
            "plain_epoch_s": round(statistics.median(row[1] for row in rows), 3),
            "parts_s": round(statistics.median(row[2] for row in rows), 3),
            "added / parts": [round(q, 3) for q in added],
            "epoch / parts": [round(q, 3) for q in whole],
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
