"""Train on with Lightning, on compressed images; see what compression does to the network, and where it looks.

    python examples/lightning_fit.py [LOGS]

Scenes are generated, so it needs no data. With LOGS the curves and figures stay there: ``tensorboard --logdir LOGS``.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.integrations.lightning import (
    BatchCompressor,
    CompressionRobustness,
    CompressOnTheFly,
    SaliencyLogger,
)


class SceneClassifier(L.LightningModule):
    """The demo's trained classifier of scenes, to be trained on."""

    def __init__(self, rate: float = 5e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = scene_net().train()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("top1", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams.rate)


class SceneData(CompressOnTheFly, L.LightningDataModule):
    """Generated scenes; the callbacks read from the transforms how they are normalized."""

    def __init__(self, scenes: int = 128, batch: int = 32, compress: BatchCompressor | None = None) -> None:
        super().__init__()
        self.scenes, self.batch, self.compress = scenes, batch, compress
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(PREPROCESS.mean, PREPROCESS.std),
            ]
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Scenes(self.scenes, 3, transform=self.transform), self.batch, shuffle=True, num_workers=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Scenes(40, 4, transform=self.transform), self.batch)


def main(logs: str | Path, epochs: int = 2) -> None:
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own, with recent torch
    L.seed_everything(0, verbose=False)
    robustness = CompressionRobustness(["jpeg:5", "jpeg:30", "webp:5"], strength=0.3)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=L.loggers.TensorBoardLogger(logs),
        callbacks=[robustness, SaliencyLogger(images=3, codec="jpeg:10")],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        default_root_dir=logs,
    )
    compress = BatchCompressor("jpeg", quality=(3, 40), strength=(0.0, 0.5))
    module, data = SceneClassifier(), SceneData(compress=compress)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    for entry in robustness.history:
        when, values = "before" if entry["stage"] == "validate" else f"epoch {entry['epoch']}", entry["values"]
        print(f"{when}: top-1 {values['clean/top1']:.1%} untouched", end="")
        for point in robustness.points:
            print(f", {values[f'{point}/top1']:.1%} at {values[f'{point}/bpp']:.2f} bits a pixel ({point})", end="")
        print()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
