"""An engine that trains language models on what critics say as well as on the scores that verifiers give."""

__version__ = "0.1.0"
__all__ = ["__version__"]
