"""Which model `coma embed` and `coma serve` load, and how it computes, in whichever process that is."""

from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    from trainers.encoding.encoder import Encoder


__all__ = ["ModelSettings"]


class ModelSettings(NamedTuple):
    """
    Which model is loaded, and how.

    Args:
        name (`str`): a folder, or a name on the Hub.
        dtype, device (`str`, *optional*, defaults to `"auto"`): precision, and where to compute.
        max_image_pixels (`int`, *optional*): images with more are refused; by default as the model has it.
        encoding (`dict`, *optional*): settings of [`~trainers.encoding.encoder.Encoder`].
    """

    name: str
    dtype: str = "auto"
    device: str = "auto"
    max_image_pixels: int | None = None
    encoding: dict[str, Any] = {}

    def load(self) -> "Encoder":
        """The model, ready to embed; raises as [`~hub_scripts.common.loading.load_model`]."""
        from hub_scripts.common.loading import load_model
        from trainers.encoding.encoder import Encoder

        model, processor = load_model(self.name, self.dtype, self.device, self.max_image_pixels)
        return Encoder(model, processor, **self.encoding)
