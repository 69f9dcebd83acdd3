"""`cmmixer doctor`: the examination."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cmmixer.config import DoctorSettings
from cmmixer.data.skips import SkipReport
from cmmixer.doctoring.findings import Examination
from cmmixer.doctoring.installed import examine_packages
from cmmixer.doctoring.machine import examine_machine
from cmmixer.doctoring.material import examine_data, examine_index
from cmmixer.progress import NoProgress, Progress


def doctor(settings: DoctorSettings, progress: Progress | None = None) -> Examination:
    """Examines the machine and, where asked for, a folder of films and an index. Changes nothing.

    What cannot be read is a finding, not an error.
    """
    progress = progress or NoProgress()
    progress.start(None, "looking at this machine")
    folders = {"Disk": Path.cwd(), "Temporary": Path(tempfile.gettempdir())}
    if settings.index is not None:
        folders["Index's disk"] = Path(settings.index)
    findings = [*examine_machine(folders), *examine_packages()]
    skips = SkipReport()
    if settings.data is not None:
        findings += examine_data(settings, skips, progress)
    if settings.index is not None:
        findings += examine_index(settings, progress)
    return Examination(findings, skips)
