"""Host networks by name. Importing this package does not load torch; building one does."""

from esper.models.registry import MODELS, Registry, build

__all__ = ["MODELS", "Registry", "build"]
