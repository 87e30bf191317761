"""What commands that score a file have in common: options, and the model they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from poise import processes
from poise.cli.choices import on_bad
from poise.data.load import OnBad
from poise.model import RewardModel


@dataclass(frozen=True)
class Scoring:
    """``on_bad`` is ``error``, or ``drop`` to leave out what cannot be used; ``raw`` leaves the model's calibration out."""

    on_bad: OnBad
    device: str
    raw: bool

    @classmethod
    def of(cls, bad_rows: str, device: str, raw: bool) -> Scoring:
        """From the options of the command line."""
        return cls(on_bad(bad_rows), device, raw)

    def model(self, folder: Path) -> RewardModel:
        """Loaded by every process of a launcher, or by none."""
        return processes.agreed(lambda: RewardModel.load(folder, device=self.device, raw=self.raw))
