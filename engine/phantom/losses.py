"""What training minimises: dense targets on patches and image tokens, and the answers' cross-entropy.

The heads of the dense targets are aids of training and no part of the checkpoint.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega
from engine.phantom.folder import IMAGE_SIZE, PATCH_SIZE
from engine.phantom.samples import NONE

GRID: Final = IMAGE_SIZE // PATCH_SIZE
BINS: Final = 50


class Aids(nn.Module):
    """Training-only heads on patches and on image tokens."""

    def __init__(self, config: MedregaConfig) -> None:
        super().__init__()
        self.patch = nn.Linear(config.vision.hidden_size, NONE + 1 + 4)
        self.token = nn.Linear(config.decoder.hidden_size, NONE + 1 + 4 * BINS)


def patch_loss(out: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Class and box of the smallest insert over each patch's centre; `out` is [B, patches, ...], row by row."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    x, y = centres.repeat(GRID), centres.repeat_interleave(GRID)
    inside = (
        (x > boxes[:, :, None, 0])
        & (x < boxes[:, :, None, 2])
        & (y > boxes[:, :, None, 1])
        & (y < boxes[:, :, None, 3])
    ) & (labels != NONE)[:, :, None]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    chosen = torch.where(inside, area[:, :, None], torch.inf).argmin(1)
    covered = inside.any(1)
    target = torch.where(covered, labels.gather(1, chosen), NONE)
    loss = functional.cross_entropy(out[..., : NONE + 1].flatten(0, 1), target.flatten())
    wanted = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))[covered]
    return loss + box_loss(out[..., NONE + 1 :][covered], wanted)


def box_loss(out: Tensor, wanted: Tensor) -> Tensor:
    """L1 and 1 - IoU of boxes given by the logits of their edges."""
    if not len(wanted):
        return out.sum() * 0
    got = out.sigmoid() * 1.1 - 0.05
    overlap = (torch.minimum(got[:, 2:], wanted[:, 2:]) - torch.maximum(got[:, :2], wanted[:, :2])).clamp(min=0).prod(1)
    union = (got[:, 2:] - got[:, :2]).clamp(min=0).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - overlap
    return 4 * (got - wanted).abs().mean() + (1 - overlap / union.clamp(min=1e-4)).mean()


def token_loss(out: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Class and edges of the insert whose centre lies in a token's cell.

    Tokens lie column by column: that is the order of pixel shuffle v1.
    """
    side = GRID // 2
    batch = len(boxes)
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2 * side).long().clamp(0, side - 1)
    cell = centre[..., 0] * side + centre[..., 1]
    target = torch.full((batch, side * side), NONE)
    owner = torch.full((batch, side * side), -1)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    for place in area.argsort(1, descending=True).T:  # the largest first, so that smaller ones win a shared cell
        rows = torch.arange(batch)
        real = labels[rows, place] != NONE
        target[rows[real], cell[rows, place][real]] = labels[rows, place][real]
        owner[rows[real], cell[rows, place][real]] = place[real]
    loss = functional.cross_entropy(out[..., : NONE + 1].flatten(0, 1), target.flatten())
    held = owner >= 0
    if held.any():
        wanted = boxes.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 4))[held]
        steps = torch.arange(BINS) + 0.5
        soft = (-0.5 * ((wanted[..., None] * BINS - steps) / 0.8) ** 2).softmax(-1)
        logits = out[..., NONE + 1 :][held].reshape(-1, 4, BINS)
        loss = loss + functional.cross_entropy(logits.flatten(0, 1), soft.flatten(0, 1))
    return loss


def answer_loss(
    model: Medrega, image_tokens: Tensor, pairs: list[tuple[list[int], list[int]]], context: int, digits: Tensor
) -> tuple[Tensor, float]:
    """Cross-entropy of the answers; the last digit of a coordinate, which is below the pixel, counts less."""
    longest = max(len(p) + len(a) for p, a in pairs)
    length = -(-longest // 32) * 32  # few different lengths: each is compiled once
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    weight = torch.zeros(len(pairs), length)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        weight[row, len(prompt) : len(prompt) + len(answer)] = 1
    digit = digits[ids]
    final = digit & ~torch.roll(digit, -1, 1) & torch.roll(digit, 1, 1)
    weight[final] *= 0.3
    embedded = model.language_model.model.embed_tokens(ids)
    where = ids == context
    embedded = embedded.masked_scatter(where[..., None], image_tokens.to(embedded.dtype))
    hidden, _ = model.language_model.hidden(embedded)
    picked = weight[:, 1:] > 0
    logits = model.language_model.lm_head(hidden[:, :-1][picked]).float()
    wanted, heavy = ids[:, 1:][picked], weight[:, 1:][picked]
    each = functional.cross_entropy(logits, wanted, reduction="none")
    with torch.no_grad():
        right = float((logits.argmax(-1) == wanted).float().mean())
    return (each * heavy).sum() / heavy.sum(), right
