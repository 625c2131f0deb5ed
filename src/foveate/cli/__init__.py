"""The command line: ``foveate demo | evaluate | compress | verify | saliency | calibrate | fit | compare | codecs``."""

from foveate.cli._main import main

__all__ = ["main"]
