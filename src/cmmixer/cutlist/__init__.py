"""Chosen moments for an editing program: `timecode` counts frames as editors do, `edl` CMX 3600, `table` CSV."""

from cmmixer.cutlist.edl import write_edl
from cmmixer.cutlist.moments import Chosen, SourceTiming, source_timing
from cmmixer.cutlist.table import write_csv
from cmmixer.cutlist.timecode import FrameRate

__all__ = ["Chosen", "FrameRate", "SourceTiming", "source_timing", "write_csv", "write_edl"]
