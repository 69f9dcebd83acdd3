"""Seeing and hearing what a model does with given films."""

from cmmixer.inspecting.run import InspectReport, inspect

__all__ = ["InspectReport", "inspect"]
