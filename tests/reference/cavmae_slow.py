"""CAV-MAE's loss clip by clip, from the formulas of arXiv 2210.07839, on the weights of ours."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference import patches_slow


def _patches(frames_TCHW: Tensor, patch: int) -> Tensor:
    strip = patches_slow.strip(frames_TCHW.double().numpy(), interleave=False)
    return torch.tensor(patches_slow.patches(strip, patch))


def _positions(rows: int, cols: int, dim: int) -> Tensor:
    return torch.tensor(patches_slow.positions(rows, cols, dim))


def _block(block: Any, norms: Any, tokens_ND: Tensor) -> Tensor:
    """The shared attention and MLP under the norms of a stream."""
    tokens = tokens_ND + block.attention(norms.norm_1(tokens_ND)[None])[0]
    return tokens + block.mlp(norms.norm_2(tokens))


@torch.no_grad()
def loss(network: Any, video: Tensor, audio: Tensor, noises: list[Tensor], mask_ratio: float) -> float:
    """L_r + 0.01 L_c of a batch, one clip at a time."""
    frames = {"video": video, "audio": audio}
    means: dict[str, list[Tensor]] = {"video": [], "audio": []}
    errors = {"video": 0.0, "audio": 0.0}
    shared = network.encoders["video"].blocks[-1]
    for clip in range(len(video)):
        streams, keeps, patches = {}, {}, {}
        for number, modality in enumerate(("video", "audio")):
            encoder = network.encoders[modality]
            patches[modality] = _patches(frames[modality][clip], network.patch)
            count = len(patches[modality])
            order = torch.argsort(noises[number][clip], stable=True).tolist()
            keeps[modality] = order[: round(count * (1 - mask_ratio))]
            positions = _positions(4, count // 4, encoder.model.dim)
            tokens = torch.stack(
                [
                    encoder.embed(patches[modality][at]) + positions[at] + network.modality[modality]
                    for at in keeps[modality]
                ]
            )
            for block in encoder.blocks[:-1]:
                tokens = _block(block, block, tokens)
            streams[modality] = tokens
            alone = encoder.norm(_block(shared, encoder.blocks[-1], tokens)).mean(0)
            means[modality].append(alone / alone.norm())
        both = network.joint_norm(_block(shared, network.joint, torch.cat([streams["video"], streams["audio"]])))
        rows = []
        for modality, part in zip(("video", "audio"), both.split(len(keeps["video"])), strict=True):
            count = len(patches[modality])
            full = network.mask_token.expand(count, -1).clone()
            for place, at in enumerate(keeps[modality]):
                full[at] = network.embed(part[place])
            rows.append(full + _positions(4, count // 4, full.shape[1]) + network.decoder_modality[modality])
        decoded = torch.cat(rows)
        for block in network.decoder:
            decoded = _block(block, block, decoded)
        halves = network.decoder_norm(decoded).split(len(patches["video"]))
        for modality, half in zip(("video", "audio"), halves, strict=True):
            hidden = [at for at in range(len(half)) if at not in keeps[modality]]
            asked = patches[modality]
            if network.norm_pix:
                asked = torch.stack([(one - one.mean()) / (one.var(correction=0) + 1e-6).sqrt() for one in asked])
            back = [float(((network.heads[modality](half[at]) - asked[at]) ** 2).mean()) for at in hidden]
            errors[modality] += sum(back) / len(back) / len(video)
    return errors["video"] + errors["audio"] + 0.01 * _contrast(means["video"], means["audio"])


def _contrast(video: list[Tensor], audio: list[Tensor], temperature: float = 0.05) -> float:
    total = 0.0
    for rows, columns in ((video, audio), (audio, video)):
        for number, row in enumerate(rows):
            scores = [math.exp(float(row @ column) / temperature) for column in columns]
            total -= math.log(scores[number] / sum(scores)) / len(rows) / 2
    return total
