"""layerscope shows what Docker's storage really holds."""

__version__ = "0.1.0"
