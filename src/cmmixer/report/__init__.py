"""A run told on one self-contained HTML page that a person who is no engineer can read, look at and listen to.

`page` what the page is made of, and writing it; `plots` its pictures; `page.html.j2` its layout.
"""

from cmmixer.report.page import (
    MEASURES,
    Example,
    Found,
    Media,
    Picture,
    Rate,
    ReportData,
    RunFigures,
    SkippedFile,
    write_report,
)
from cmmixer.report.plots import Curves, StripRow, loss_curves, mel_picture, strip_picture

__all__ = [
    "MEASURES",
    "Curves",
    "Example",
    "Found",
    "Media",
    "Picture",
    "Rate",
    "ReportData",
    "RunFigures",
    "SkippedFile",
    "StripRow",
    "loss_curves",
    "mel_picture",
    "strip_picture",
    "write_report",
]
