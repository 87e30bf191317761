"""Whether what a model scores now still looks like what it was trained and checked on."""

from poise.monitoring.drift import DriftReport, MeasureDrift, compare
from poise.monitoring.observe import Observed, observe, observe_pairs
from poise.monitoring.reference import Reference, read_reference, reference_of, write_reference

__all__ = [
    "DriftReport",
    "MeasureDrift",
    "Observed",
    "Reference",
    "compare",
    "observe",
    "observe_pairs",
    "read_reference",
    "reference_of",
    "write_reference",
]
