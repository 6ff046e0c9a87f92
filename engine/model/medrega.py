"""MedRegA as one PyTorch module: ``vision_model``, ``mlp1``, ``language_model``, named as its checkpoints are."""

from __future__ import annotations

from torch import Tensor, nn

from engine.model.config import MedregaConfig
from engine.model.decoder import Decoder
from engine.model.vision import VisionModel, pixel_shuffle, projector


class VisionPart(nn.Module):
    """What makes tokens of an image: vision tower, pixel shuffle, projector."""

    def __init__(self, config: MedregaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config.vision)
        self.mlp1 = projector(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """See `image_tokens`."""
        return self.image_tokens(pixels)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Images to decoder embeddings.

        Parameters
        ----------
        pixels : Tensor, [B, 3, S, S]
            Normalised as `engine.model.preprocess` does.

        Returns
        -------
        Tensor, [B, image tokens, decoder hidden]
        """
        config = self.config
        patches = self.vision_model(pixels, config.select_layer)
        side = int(patches.shape[1] ** 0.5)
        patches = patches.reshape(patches.shape[0], side, side, -1)
        shuffled = pixel_shuffle(patches, config.downsample_ratio, config.ps_version)
        tokens: Tensor = self.mlp1(shuffled.flatten(1, 2))
        return tokens


class Medrega(VisionPart):
    """The model. See `engine.model.weights` for loading it."""

    def __init__(self, config: MedregaConfig) -> None:
        super().__init__(config)
        self.language_model = Decoder(config.decoder)
