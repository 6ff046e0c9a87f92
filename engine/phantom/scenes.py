"""Random scenes of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.phantom.breasts import breast
from engine.phantom.drawing import Scene
from engine.phantom.others import other
from engine.phantom.plates import plate
from engine.phantom.shapes import Rng, turned

__all__ = ["breast", "mirrored", "other", "plate", "random_scene"]


def random_scene(rng: Rng) -> Scene:
    """A scene as the model is trained on: half plates, a third breasts, the rest neither."""
    aspect = float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
    draw = rng.random()
    if draw < 0.47:
        return plate(rng, aspect)
    if draw < 0.80:
        return breast(rng, float(np.exp(rng.uniform(np.log(0.5), np.log(1.2)))))
    return other(rng, aspect)


def mirrored(scene: Scene) -> Scene:
    """The scene seen from behind; its drawing is the mirror image but for texture and noise."""
    return replace(scene, inserts=tuple(map(turned, scene.inserts)), decoys=tuple(map(turned, scene.decoys)))
