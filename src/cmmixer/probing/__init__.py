"""The universal model: what an encoder's features tell about labels it was never given."""

from cmmixer.probing.run import ProbeReport, probe

__all__ = ["ProbeReport", "probe"]
