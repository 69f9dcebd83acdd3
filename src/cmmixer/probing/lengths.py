"""Files shorter than a clip, told before anything is learnt: their clips would not be as long as the others'."""

from __future__ import annotations

from cmmixer.config import ClipSettings, ProbeSettings
from cmmixer.data.lengths import entry_seconds
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError
from cmmixer.media.timeline import SLACK_SECONDS
from cmmixer.probing.labelled import Labelled
from cmmixer.progress import Progress


def check_lengths(
    settings: ProbeSettings, labelled: Labelled, clip: ClipSettings, skips: SkipReport, progress: Progress
) -> Labelled:
    """The files to go on with. Longer files than a clip are no matter: several clips of each are averaged.

    Args:
        settings: of the command; `short` says what to do with short files.
        labelled: all files.
        clip: geometry of a clip.
        skips: told about those that are left out.
        progress: told about every file.

    Raises:
        DataError: files are shorter than a clip and to be refused, all are, or too few of a class are left.
    """
    if settings.short == "use":
        return labelled
    entries = labelled.entries
    progress.start(len(entries), "lengths of files")
    seconds = entry_seconds(entries, workers=settings.workers, file_seconds=settings.file_seconds, progress=progress)
    least = clip.clip_seconds - SLACK_SECONDS
    short = {row: found for row, found in enumerate(seconds) if found is not None and found < least}
    if not short:
        return labelled
    first = min(short)
    range_words = f"; all of them {min(short.values()):.2f} to {max(short.values()):.2f} s" if len(short) > 1 else ""
    told = (
        f"{settings.data}: {len(short)} of {len(entries)} files {'is' if len(short) == 1 else 'are'} shorter than a clip of this model, "
        f"{clip.clip_seconds:g} s, such as {entries[first].name} ({short[first]:.2f} s{range_words})"
    )
    if settings.short == "refuse":
        raise DataError(
            f"{told}; --short use takes each as one clip of its own length, --short skip leaves them out, or probe a model of shorter clips"
        )
    kept = [row for row in range(len(entries)) if row not in short]
    if not kept:
        raise DataError(f"{told}; none is left")
    for row, found in short.items():
        skips.add(entries[row].path, "too-short", f"it lasts {found:.2f} s, a clip takes {clip.clip_seconds:g} s")
    labelled = labelled.rows(kept)
    labelled.check(settings.data)
    return labelled
