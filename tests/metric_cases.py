"""The cases of the tests of the metrics, in a module that processes of a group can import."""

import json

import torch

from foveate.evaluation.metrics import BDRate, BitsPerPixel, RateAccuracy

POINTS = ("a:1", "a:2", "b:1", "b:2")


def batch(k):
    """Logits, clean logits, labels, bytes and pixels of a batch of 8, batch k of any process."""
    generator = torch.Generator().manual_seed(k)
    clean = torch.randn(8, 5, generator=generator)
    labels = clean.argmax(1)
    noise = torch.randn(8, 5, generator=generator)
    sizes = torch.randint(100, 900, (8,), generator=generator)
    return clean, noise, labels, sizes, torch.full((8,), 1200)


def feed(metric, k):
    clean, noise, labels, sizes, pixels = batch(k)
    if isinstance(metric, BitsPerPixel):
        metric.update(sizes, pixels)
        return
    for n, (name, amount) in enumerate(zip(POINTS, (3.0, 0.3, 2.5, 0.2), strict=True)):
        metric.update(name, clean + amount * noise, labels, (1 + n % 2) * sizes, pixels, clean)


METRICS = {
    "bpp": BitsPerPixel,
    "curve": lambda: RateAccuracy(POINTS),
    "bd": lambda: BDRate(POINTS[:2], POINTS[2:]),
    "bd of agreement": lambda: BDRate(POINTS[:2], POINTS[2:], metric="agreement"),
}


def flat(value):
    return torch.cat([v.reshape(-1) for v in value.values()]) if isinstance(value, dict) else value.reshape(-1)


def fed(name, batches):
    metric = METRICS[name]()
    for k in batches:
        feed(metric, k)
    return metric


def count_in_a_group(rank, processes, folder):
    """Count every other batch in each of two processes; the first writes what they count together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    # Unequal shares, as the last batches of an epoch are.
    values = {name: flat(fed(name, range(rank, 5, processes)).compute()).tolist() for name in METRICS}
    if rank == 0:
        (folder / "values.json").write_text(json.dumps(values))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
