"""Configure a training with Foveate's callbacks by one YAML file, through LightningCLI.

python examples/lightning_cli.py                                                  # fit, by the file beside this
python examples/lightning_cli.py fit --config examples/lightning_cli.yaml --trainer.max_epochs 3
python examples/lightning_cli.py fit --trainer.callbacks.help=foveate.integrations.lightning.CompressionRobustness
"""

import sys
import tempfile
from pathlib import Path

from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning_fit import SceneClassifier, SceneData


def main(args: ArgsType = None) -> LightningCLI:
    return LightningCLI(SceneClassifier, SceneData, save_config_callback=None, args=args)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        with tempfile.TemporaryDirectory() as folder:
            config = str(Path(__file__).with_suffix(".yaml"))
            cli = main(["fit", "--config", config, f"--trainer.logger.save_dir={folder}"])
        for row in cli.trainer.callbacks[0].results():
            print(f"{row['point']}: {row['top1']:.1%} top-1 at {row['bpp']:.3f} bits a pixel")
