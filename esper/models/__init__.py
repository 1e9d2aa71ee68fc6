"""Host networks by name. Importing this package does not load torch; building one does."""

from esper.models.registry import MODELS, ModelRegistry, build

__all__ = ["MODELS", "ModelRegistry", "build"]
