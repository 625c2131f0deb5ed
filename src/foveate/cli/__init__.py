"""The command line: ``foveate demo | evaluate | compress | verify | saliency | calibrate | compare | codecs``."""

from foveate.cli._main import main

__all__ = ["main"]
