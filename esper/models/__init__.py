"""Built-in host networks by name. Importing this package does not load torch; building a network does.

Any callable `(num_classes, channels, image_size, **model_params) -> nn.Module` can be a model, by its dotted
path.
"""

from esper.models.registry import MODELS, ModelRegistry, build

__all__ = ["MODELS", "ModelRegistry", "build"]
