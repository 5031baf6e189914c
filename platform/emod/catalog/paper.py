"""What the paper printed, so that a run on a real copy can stand beside it."""

from __future__ import annotations

from pydantic import Field

from emod.catalog.strict import Strict

__all__ = ["PaperScores", "PrintedScores"]

Printed = tuple[float, float]


class PrintedScores(Strict):
    """Of one method on one benchmark, in percent: mean and standard deviation; None where none is printed."""

    balanced_accuracy: tuple[float, float | None]
    kappa: Printed | None = None
    weighted_f1: Printed | None = None


class PaperScores(Strict):
    """catalogs/paper.yaml: the results of Tables 2 and 3, and the losses of Figure 3 as scores."""

    results: dict[str, dict[str, PrintedScores]] = Field(description="method -> benchmark -> its scores")
    windows_s: dict[str, float] = Field(description="benchmark -> seconds of a window")
    losses: dict[str, dict[str, float]] = Field(
        description="what EMOD is left without -> benchmark -> the balanced accuracy it loses, in points"
    )

    def of(self, method: str, *, corpus: str, protocol: str, window_s: float) -> PrintedScores | None:
        """What the paper printed for a method of this name on this benchmark; None if it did not."""
        if protocol != f"{corpus}_paper" or window_s != self.windows_s.get(corpus):
            return None
        if (found := self.results.get(method, {}).get(corpus)) is not None:
            return found
        if (loss := self.losses.get(method, {}).get(corpus)) is not None:
            whole = self.results["EMOD"][corpus]
            return PrintedScores(balanced_accuracy=(round(whole.balanced_accuracy[0] - loss, 2), None))
        return None
