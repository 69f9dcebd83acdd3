"""The rows of the study. A row is a way of starting the towers; films, fine-tuning and evaluation are the same for all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cmmixer.config import MixerSettings
from cmmixer.errors import SettingsError

# Beta(alpha, alpha) so near its ends that lambda is 0 or 1: whole frames (mode image) are all picture or all sound.
WHOLE = 1e-3


@dataclass(frozen=True)
class Cell:
    """One way.

    Attributes:
        words: what the table calls it.
        pretrain: none · plain (each sense alone, arXiv 2111.06377) · mixed (arXiv 2308.13820) · cavmae (arXiv 2210.07839).
        handed_on: part of pre-training's clips that fine-tuning gets instead.
        handed_arithmetic: fine-tuning gets as many clips more as cost what mixed pre-training would have cost.
        mixer: of `mixed`.
        mask_ratio: of pre-training.
        norm_pix: targets standardised per patch.
        contrast: weight of a contrastive term inside the pre-training of `mixed`.
        shared_tower: one encoder for both senses.
        frames_apart: towers look at each frame by itself.
        frame_weight: part of the fine-tuning loss that contrasts single frames.
        canonical: heads start at the canonical correlations of the training pairs.
        finetune_mask: part of the tokens dropped while fine-tuning.
        sequence: part of the fine-tuning's loss that contrasts frames in their order instead of whole clips.
        pair_mix: probability that a clip's frames come from several clips while fine-tuning; see `cmmixer.models.pair_mixup`.
    """

    words: str
    pretrain: str = "mixed"
    handed_on: float = 0.0
    handed_arithmetic: bool = False
    mixer: MixerSettings = field(default_factory=MixerSettings)
    mask_ratio: float = 0.75
    norm_pix: bool = False
    contrast: float = 0.0
    shared_tower: bool = False
    frames_apart: bool = False
    frame_weight: float = 0.0
    canonical: bool = False
    finetune_mask: float = 0.0
    sequence: float = 0.0
    pair_mix: float = 0.0


def _cutmix(mode: str) -> MixerSettings:
    return MixerSettings(mixup_mode=mode, mixup_alpha=0.0)


def _mixup(mode: str) -> MixerSettings:
    return MixerSettings(mixup_mode=mode, cutmix_alpha=0.0)


def _apart(words: str, **values: Any) -> Cell:
    return Cell(
        f"{words}, canonical heads, frames apart", canonical=True, frames_apart=True, frame_weight=1.0, **values
    )


def _dealt(words: str, **values: Any) -> Cell:
    return Cell(
        f"{words}, canonical heads, frames apart, pair mixing",
        canonical=True, frames_apart=True, pair_mix=1.0, **values,
    )  # fmt: skip


FRAMES = MixerSettings(mixup_mode="image", mixup_alpha=WHOLE, cutmix_alpha=0.0)

CELLS = {
    "scratch": Cell("from scratch", "none"),
    "contrast": Cell("contrast only, whole budget of clips", "none", handed_on=1.0),
    "contrast-equal": Cell("contrast only, arithmetic of the mixed rows", "none", handed_arithmetic=True),
    "plain": Cell("plain MAE, each sense alone", "plain"),
    "cavmae": Cell("CAV-MAE-style", "cavmae", norm_pix=True),
    "pixel": Cell("pixel", mixer=MixerSettings(mixup_mode="pixel")),
    "patch": Cell("patch", mixer=MixerSettings(mixup_mode="patch")),
    "image": Cell("image, cutmix or mixup (the paper's)"),
    "image-cutmix": Cell("image, cutmix", mixer=_cutmix("image")),
    "image-mixup": Cell("image, mixup", mixer=_mixup("image")),
    "video": Cell("video, cutmix or mixup", mixer=MixerSettings(mixup_mode="video")),
    "video-cutmix": Cell("video, cutmix", mixer=_cutmix("video")),
    "video-mixup": Cell("video, mixup", mixer=_mixup("video")),
    "half-mixed": Cell("image, half of the clips unmixed", mixer=MixerSettings(mixup_prob=0.5)),
    "unmixed": Cell("no mix: one sense in, both given back", mixer=MixerSettings(mixup_prob=0.0)),
    "mask-50": Cell("image, half masked", mask_ratio=0.5),
    "mask-90": Cell("image, nine tenths masked", mask_ratio=0.9),
    "shared": Cell("image, one shared tower", shared_tower=True),
    "frames": Cell("whole frames swapped", mixer=FRAMES),
    "frames-norm-pix": Cell("whole frames swapped, norm_pix", mixer=FRAMES, norm_pix=True),
    "frames-contrast": Cell("whole frames swapped, small contrastive term", mixer=FRAMES, contrast=0.1),
    "frames-light-mask": Cell("whole frames swapped, a tenth masked in fine-tuning", mixer=FRAMES, finetune_mask=0.1),
    "frames-canonical": Cell("whole frames swapped, canonical heads", mixer=FRAMES, canonical=True),
    "plain-canonical": Cell("plain MAE, canonical heads", "plain", canonical=True),
    "scratch-canonical": Cell("from scratch, canonical heads", "none", canonical=True),
    "scratch-sequence": Cell(
        "from scratch, canonical heads, half of the loss on frames in order", "none", canonical=True, sequence=0.5
    ),
    "scratch-pair-mix": Cell("from scratch, canonical heads, pair mixing", "none", canonical=True, pair_mix=1.0),
    "plain-pair-mix": Cell("plain MAE, canonical heads, pair mixing", "plain", canonical=True, pair_mix=1.0),
    "frames-pair-mix": Cell(
        "whole frames swapped, canonical heads, pair mixing", mixer=FRAMES, canonical=True, pair_mix=1.0
    ),
    "contrast-canonical": Cell(
        "contrast only, whole budget of clips, canonical heads", "none", handed_on=1.0, canonical=True
    ),
    "contrast-pair-mix": Cell(
        "contrast only, whole budget of clips, canonical heads, pair mixing",
        "none",
        handed_on=1.0,
        canonical=True,
        pair_mix=1.0,
    ),
    "frames-half": Cell(
        "whole frames swapped, half of its clips to the contrast, canonical heads",
        mixer=FRAMES,
        handed_on=0.5,
        canonical=True,
    ),
    "frames-half-pair-mix": Cell(
        "whole frames swapped, half of its clips to the contrast, canonical heads, pair mixing",
        mixer=FRAMES,
        handed_on=0.5,
        canonical=True,
        pair_mix=1.0,
    ),
    # The towers see one frame or sound window at a time, and each is contrasted with all of the batch.
    "apart": _apart("from scratch", pretrain="none"),
    "apart-plain": _apart("plain MAE", pretrain="plain"),
    "apart-image": _apart("image, cutmix or mixup (the paper's)"),
    "apart-frames": _apart("whole frames swapped", mixer=FRAMES),
    "apart-half": _apart("whole frames swapped, half of its clips to the contrast", mixer=FRAMES, handed_on=0.5),
    "apart-image-half": _apart(
        "image, cutmix or mixup (the paper's), half of its clips to the contrast", handed_on=0.5
    ),
    "apart-plain-half": _apart("plain MAE, half of its clips to the contrast", pretrain="plain", handed_on=0.5),
    "apart-contrast": _apart("contrast only, whole budget of clips", pretrain="none", handed_on=1.0),
    # Frames dealt out anew among clips, and seen one by one: the contrast is of whole clips, since a clip's other frames come
    # from other films.
    "apart-pair-mix": _dealt("from scratch", pretrain="none"),
    "apart-plain-pair-mix": _dealt("plain MAE", pretrain="plain"),
    "apart-frames-pair-mix": _dealt("whole frames swapped", mixer=FRAMES),
    "apart-half-pair-mix": _dealt(
        "whole frames swapped, half of its clips to the contrast", mixer=FRAMES, handed_on=0.5
    ),
    "apart-contrast-pair-mix": _dealt("contrast only, whole budget of clips", pretrain="none", handed_on=1.0),
}
# What every other row is held against.
CONTROLS = ("scratch", "contrast", "contrast-equal", "plain", "cavmae")


def chosen(names: Iterable[str]) -> dict[str, Cell]:
    """The cells of these names, all of them where none is named.

    Raises:
        SettingsError: an unknown name; the message has the nearest good one.
    """
    names = list(names)
    for name in names:
        if name not in CELLS:
            near = difflib.get_close_matches(name, CELLS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(CELLS)}"
            raise SettingsError(f"--cells: unknown cell {name!r}{hint}")
    return {name: CELLS[name] for name in names or CELLS}
