"""ragdist: fine-tune language models so that they stay right when retrieval is wrong."""

__version__ = "0.1.0"
