"""Training the phantom reader: the vision tower first, on dense targets, then the whole model on its answers.

``python -m engine.phantom.train --out DIR`` trains from nothing on two CPU cores and can be stopped and started again;
``make phantom-model`` calls it.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega
from engine.model.preprocess import MEAN, STD
from engine.model.tokenizer import Tokenizer
from engine.model.vision import pixel_shuffle
from engine.model.weights import load_model
from engine.phantom import folder as checkpoint
from engine.phantom.losses import GRID, Aids, answer_loss, patch_loss, token_loss
from engine.phantom.samples import Sample, produce


class Trainer:
    """State of a training run: weights, averages, optimisers, and the step it is at."""

    def __init__(self, out: Path, seed: int, start: Path | None = None) -> None:
        torch.manual_seed(seed)
        self.out, self.folder = out, out / "checkpoint"
        if start is not None and not self.folder.exists():
            shutil.copytree(start, self.folder)
        if not (self.folder / "tokenizer.model").exists():
            checkpoint.write_tokenizer(self.folder)
            vocabulary = Tokenizer(self.folder).size
            checkpoint.write_config(self.folder, vocabulary)
        self.tokenizer = Tokenizer(self.folder)
        self.config = MedregaConfig.from_folder(self.folder)
        self.model, self.aids = Medrega(self.config), Aids(self.config)
        if (self.folder / "model.safetensors").exists():
            self.model.load_state_dict(load_model(self.folder, device="cpu", dtype=torch.float32).state_dict())
        else:
            initialise(self.model)
        self.digits = torch.zeros(self.config.decoder.vocab_size, dtype=torch.bool)
        self.digits[[self.tokenizer.encode(str(d))[0] for d in range(10)]] = True
        named = [*self.model.named_parameters(), *self.aids.named_parameters()]
        matrix = [p for n, p in named if p.ndim == 2 and ".layers." in n]
        rest = [p for n, p in named if not (p.ndim == 2 and ".layers." in n)]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrix, lr=0.012, weight_decay=0.02, momentum=0.95, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.base = [0.012, 2e-3]
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        if (out / "state.pt").exists():
            self._load(torch.load(out / "state.pt", weights_only=True))

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.aids.load_state_dict(state["aids"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average, self.step = state["average"], state["step"]

    def save(self) -> None:
        """The run's state, and the averaged weights as a checkpoint folder."""
        state = {
            "model": self.model.state_dict(),
            "aids": self.aids.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "average": self.average,
            "step": self.step,
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").rename(self.out / "state.pt")
        shadow = Medrega(self.config)
        shadow.load_state_dict(self.average)
        checkpoint.write_weights(self.folder, shadow)

    def compile(self) -> None:
        """Fuse the small operations: three times as fast on two cores."""
        model = self.model
        model.vision_model.forward = torch.compile(model.vision_model.forward, dynamic=False)  # type: ignore[method-assign]
        for layer in model.language_model.model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)

    def rate(self, scale: float) -> None:
        """Set the learning rates."""
        for optimiser, base in zip(self.optimisers, self.base, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = base * scale

    def update(self, batch: list[Sample], rng: np.random.Generator, language: bool) -> dict[str, float]:
        """One step of the optimiser."""
        grey = torch.from_numpy(np.stack([s.image for s in batch])).float()[:, None] / 255.0
        tint = torch.from_numpy(np.stack([s.tint for s in batch]))[:, :, None, None]
        pixels = (grey * tint - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]
        boxes = torch.from_numpy(np.stack([s.boxes for s in batch]))
        labels = torch.from_numpy(np.stack([s.labels for s in batch]))
        figures: dict[str, float] = {}
        # The plain attention is faster here than the fused one, whose backward pass is slow on a CPU.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            model = self.model
            patches = model.vision_model(pixels, -1)
            square = patches.reshape(len(batch), GRID, GRID, -1)
            tokens = model.mlp1(pixel_shuffle(square, 0.5, "v1").flatten(1, 2))
            per_patch, per_token = self.aids.patch(patches).float(), self.aids.token(tokens).float()
            near, far = patch_loss(per_patch, boxes, labels), token_loss(per_token, boxes, labels)
            figures |= {"patch": near.item(), "token": far.item()}
            loss = near + far if not language else 0.5 * (near + far)
            if language:
                context = self.tokenizer.image_context_id
                # Detection for half of the images, any other question for a fifth, and only the aids for the rest.
                cut, end = len(batch) // 2, len(batch) * 7 // 10
                pairs = [s.detection for s in batch[:cut]]
                said, figures["right"] = answer_loss(model, tokens[:cut], pairs, context, self.digits)
                pairs = [s.others[rng.integers(len(s.others))] for s in batch[cut:end]]
                also, figures["right_other"] = answer_loss(model, tokens[cut:end], pairs, context, self.digits)
                figures |= {"answer": said.item(), "other": also.item()}
                loss = loss + said + 0.5 * also
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for o in self.optimisers for g in o.param_groups for p in g["params"]], 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(0.998, self.step / (self.step + 50))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return figures


def initialise(model: Medrega) -> None:
    """Small normal weights; positions begin as two-dimensional sines, so that places are told apart from the start."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "embedding" not in name and "embed_tokens" not in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 * 0.7)
    body = model.language_model.model
    nn.init.normal_(body.embed_tokens.weight, std=0.05)
    nn.init.normal_(model.language_model.lm_head.weight, std=0.02)
    for name, parameter in body.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    embeddings = model.vision_model.embeddings
    size = embeddings.position_embedding.shape[-1]
    waves = torch.exp2(torch.arange(size // 4) * (5.0 / (size // 4)) - 1) * torch.pi
    place = (torch.arange(GRID) + 0.5) / GRID
    wave = torch.cat([(place[:, None] * waves).sin(), (place[:, None] * waves).cos()], 1)
    across, down = wave.repeat(GRID, 1), wave.repeat_interleave(GRID, 0)
    with torch.no_grad():
        embeddings.position_embedding[0, 0].zero_()
        embeddings.position_embedding[0, 1:] = torch.cat([across, down], 1) * 0.5
        embeddings.class_embedding.normal_(std=0.02)
        nn.init.normal_(embeddings.patch_embedding.weight, std=768**-0.5)


def main() -> None:
    """Train, saving now and then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; its checkpoint/ is the result")
    parser.add_argument("--start", type=Path, help="go on from a checkpoint's weights (with --warm-up 0)")
    parser.add_argument("--steps", type=int, default=12000, help="steps in all")
    parser.add_argument("--warm-up", type=int, default=1500, help="steps of the vision tower alone")
    parser.add_argument(
        "--decay", type=float, default=0.6, help="last share of the steps, in which the rate falls to 0"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args.out, args.seed, args.start)
    context = multiprocessing.get_context("spawn")
    incoming: Any = context.Queue(maxsize=8)
    arguments = (incoming, args.seed + 1 + trainer.step, str(trainer.folder), trainer.config.image_tokens)
    producer = context.Process(target=produce, args=arguments, daemon=True)
    producer.start()
    rng = np.random.default_rng(args.seed + trainer.step)
    pool: list[Sample] = []
    sums: dict[str, list[float]] = {}
    begun = time.monotonic()
    trainer.compile()
    try:
        while trainer.step < args.steps:
            wait = len(pool) < 32 * args.batch
            for _ in range(2):
                try:
                    for new in incoming.get(block=wait):
                        if len(pool) < 60000:
                            pool.append(new)
                        else:
                            pool[rng.integers(len(pool))] = new
                except queue.Empty:
                    break
            if wait:
                continue
            left = (args.steps - trainer.step) / (args.decay * args.steps)
            trainer.rate(min(1.0, trainer.step / 200, left))
            batch = [pool[i] for i in rng.integers(len(pool), size=args.batch)]
            for key, value in trainer.update(batch, rng, trainer.step >= args.warm_up).items():
                sums.setdefault(key, []).append(value)
            if trainer.step % 100 == 0:
                means = {key: round(float(np.mean(values)), 4) for key, values in sums.items()}
                line = {"step": trainer.step, "seconds": round(time.monotonic() - begun), "pool": len(pool), **means}
                print(json.dumps(line), flush=True)
                sums = {}
            if trainer.step % 250 == 0:
                trainer.save()
        trainer.save()
    finally:
        producer.terminate()


if __name__ == "__main__":
    main()
