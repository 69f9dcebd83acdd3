"""The cells of the study: ways of training the towers. Videos, evaluation and everything a cell does not name are the same for all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cmmixer.config import MixerSettings
from cmmixer.errors import SettingsError

# Beta(alpha, alpha) with so small an alpha yields almost only 0 and 1. In mode `image`, whole frames are then all video or all audio.
SWAP_ALPHA = 1e-3


@dataclass(frozen=True)
class Cell:
    """One way of training.

    Attributes:
        title: name in the tables.
        pretrain: none · plain (each modality alone, arXiv 2111.06377) · mixed (arXiv 2308.13820) · cavmae (arXiv 2210.07839).
        contrastive_share: fraction of the clips of pre-training that fine-tuning gets instead.
        match_flops: fine-tuning gets as many extra clips as cost the FLOP of mixed pre-training.
        mixer: of `mixed`.
        mask_ratio: of pre-training.
        norm_pix: reconstruction targets are normalized per patch.
        contrastive_weight: weight of a contrastive term in the pre-training of `mixed`.
        shared_tower: one encoder for both modalities.
        frame_level: towers encode each frame by itself.
        frame_weight: weight of the frame-level contrastive loss in fine-tuning.
        cca_init: heads are initialized by CCA of the training pairs.
        finetune_mask: fraction of the tokens dropped in fine-tuning.
        sequence: weight of a contrastive loss on frames in their order, instead of whole clips, in fine-tuning.
        frame_mixup: probability of cross-clip frame mixup in fine-tuning; see `cmmixer.models.frame_mixup`.
    """

    title: str
    pretrain: str = "mixed"
    contrastive_share: float = 0.0
    match_flops: bool = False
    mixer: MixerSettings = field(default_factory=MixerSettings)
    mask_ratio: float = 0.75
    norm_pix: bool = False
    contrastive_weight: float = 0.0
    shared_tower: bool = False
    frame_level: bool = False
    frame_weight: float = 0.0
    cca_init: bool = False
    finetune_mask: float = 0.0
    sequence: float = 0.0
    frame_mixup: float = 0.0


def _cutmix(mode: str) -> MixerSettings:
    return MixerSettings(mixup_mode=mode, mixup_alpha=0.0)


def _mixup(mode: str) -> MixerSettings:
    return MixerSettings(mixup_mode=mode, cutmix_alpha=0.0)


def _cca(title: str, **values: Any) -> Cell:
    return Cell(f"{title}, CCA-initialized heads", cca_init=True, **values)


def _cca_frame_mixup(title: str, **values: Any) -> Cell:
    return Cell(f"{title}, CCA-initialized heads, cross-clip frame mixup", cca_init=True, frame_mixup=1.0, **values)


def _frame_level(title: str, **values: Any) -> Cell:
    return Cell(
        f"{title}, CCA-initialized heads, frame-level", cca_init=True, frame_level=True, frame_weight=1.0, **values
    )


def _frame_level_mixup(title: str, **values: Any) -> Cell:
    # The loss is on whole clips here, since the other frames of a clip come from other videos.
    return Cell(
        f"{title}, CCA-initialized heads, frame-level, cross-clip frame mixup",
        cca_init=True,
        frame_level=True,
        frame_mixup=1.0,
        **values,
    )


FRAME_SWAP = MixerSettings(mixup_mode="image", mixup_alpha=SWAP_ALPHA, cutmix_alpha=0.0)
_BASELINE = "no pre-training (baseline)"
_CONTRASTIVE = "contrastive training only, all clips"
_PAPER = "image, cutmix or mixup (the paper's)"
_HALF = "half of its clips for contrastive training"

CELLS = {
    "baseline": Cell(_BASELINE, "none"),
    "contrastive": Cell(_CONTRASTIVE, "none", contrastive_share=1.0),
    "contrastive-equal": Cell("contrastive training only, FLOP of the mixed rows", "none", match_flops=True),
    "plain": Cell("plain MAE, each modality alone", "plain"),
    "cavmae": Cell("CAV-MAE-style", "cavmae", norm_pix=True),
    "pixel": Cell("pixel", mixer=MixerSettings(mixup_mode="pixel")),
    "patch": Cell("patch", mixer=MixerSettings(mixup_mode="patch")),
    "image": Cell(_PAPER),
    "image-cutmix": Cell("image, cutmix", mixer=_cutmix("image")),
    "image-mixup": Cell("image, mixup", mixer=_mixup("image")),
    "video": Cell("video, cutmix or mixup", mixer=MixerSettings(mixup_mode="video")),
    "video-cutmix": Cell("video, cutmix", mixer=_cutmix("video")),
    "video-mixup": Cell("video, mixup", mixer=_mixup("video")),
    "half-mixed": Cell("image, half of the clips unmixed", mixer=MixerSettings(mixup_prob=0.5)),
    "unmixed": Cell("no mix: one modality in, both reconstructed", mixer=MixerSettings(mixup_prob=0.0)),
    "mask-50": Cell("image, mask ratio 0.5", mask_ratio=0.5),
    "mask-90": Cell("image, mask ratio 0.9", mask_ratio=0.9),
    "shared": Cell("image, one shared tower", shared_tower=True),
    "swap": Cell("frame swap", mixer=FRAME_SWAP),
    "swap-norm-pix": Cell("frame swap, norm_pix", mixer=FRAME_SWAP, norm_pix=True),
    "swap-contrastive": Cell("frame swap, small contrastive term", mixer=FRAME_SWAP, contrastive_weight=0.1),
    "swap-light-mask": Cell("frame swap, mask ratio 0.1 in fine-tuning", mixer=FRAME_SWAP, finetune_mask=0.1),
    "swap-cca": _cca("frame swap", mixer=FRAME_SWAP),
    "plain-cca": _cca("plain MAE", pretrain="plain"),
    "baseline-cca": _cca(_BASELINE, pretrain="none"),
    "baseline-sequence": Cell(
        f"{_BASELINE}, CCA-initialized heads, half of the loss on frames in order", "none", cca_init=True, sequence=0.5
    ),
    "baseline-frame-mixup": _cca_frame_mixup(_BASELINE, pretrain="none"),
    "plain-frame-mixup": _cca_frame_mixup("plain MAE", pretrain="plain"),
    "swap-frame-mixup": _cca_frame_mixup("frame swap", mixer=FRAME_SWAP),
    "contrastive-cca": _cca(_CONTRASTIVE, pretrain="none", contrastive_share=1.0),
    "contrastive-frame-mixup": _cca_frame_mixup(_CONTRASTIVE, pretrain="none", contrastive_share=1.0),
    "swap-half": _cca(f"frame swap, {_HALF}", mixer=FRAME_SWAP, contrastive_share=0.5),
    "swap-half-frame-mixup": _cca_frame_mixup(f"frame swap, {_HALF}", mixer=FRAME_SWAP, contrastive_share=0.5),
    # The towers encode one frame or audio window at a time, and each is contrasted with all of the batch.
    "frame-level": _frame_level(_BASELINE, pretrain="none"),
    "frame-level-plain": _frame_level("plain MAE", pretrain="plain"),
    "frame-level-image": _frame_level(_PAPER),
    "frame-level-swap": _frame_level("frame swap", mixer=FRAME_SWAP),
    "frame-level-swap-half": _frame_level(f"frame swap, {_HALF}", mixer=FRAME_SWAP, contrastive_share=0.5),
    "frame-level-image-half": _frame_level(f"{_PAPER}, {_HALF}", contrastive_share=0.5),
    "frame-level-plain-half": _frame_level(f"plain MAE, {_HALF}", pretrain="plain", contrastive_share=0.5),
    "frame-level-contrastive": _frame_level(_CONTRASTIVE, pretrain="none", contrastive_share=1.0),
    "frame-level-frame-mixup": _frame_level_mixup(_BASELINE, pretrain="none"),
    "frame-level-plain-frame-mixup": _frame_level_mixup("plain MAE", pretrain="plain"),
    "frame-level-swap-frame-mixup": _frame_level_mixup("frame swap", mixer=FRAME_SWAP),
    "frame-level-swap-half-frame-mixup": _frame_level_mixup(
        f"frame swap, {_HALF}", mixer=FRAME_SWAP, contrastive_share=0.5
    ),
    "frame-level-contrastive-frame-mixup": _frame_level_mixup(_CONTRASTIVE, pretrain="none", contrastive_share=1.0),
}
# Every other cell is compared with these.
CONTROLS = ("baseline", "contrastive", "contrastive-equal", "plain", "cavmae")


def select_cells(names: Iterable[str]) -> dict[str, Cell]:
    """Returns the cells with these names, or all cells if there are no names.

    Raises:
        SettingsError: a name is unknown; the message has the closest known name.
    """
    names = list(names)
    for name in names:
        if name not in CELLS:
            near = difflib.get_close_matches(name, CELLS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(CELLS)}"
            raise SettingsError(f"--cells: unknown cell {name!r}{hint}")
    return {name: CELLS[name] for name in names or CELLS}
