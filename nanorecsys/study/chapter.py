"""Chapter 07, the summary: every claim judged, every run listed, numbers for the other pages."""

from typing import Any

from nanorecsys.study.chapters import EARLIER, Estimate
from nanorecsys.study.summary import Summary

NEEDS = EARLIER
Result = Summary
FINDINGS: dict[str, Any] = {}  # it reads those of the other chapters


def estimate(parameters: dict[str, Any]) -> Estimate:
    """The memory and disk for reading a few records."""
    return Estimate(memory_gib=0.5, disk_gib=0.01)
