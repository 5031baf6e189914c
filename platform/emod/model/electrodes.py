"""The electrode dictionary E_s: one learned row per canonical electrode name, or a mixture of rows by their weights.

Does not place electrodes on the head and does not invent rows: an electrode without a row is an error, and which rows
stand for it is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from emod.signal.montage import ELECTRODES, canonical_names

Electrode = str | Mapping[str, float]
"""A name, whose own row is meant, or weights of names, whose rows are added up by them."""

ROW_OF_ELECTRODE = {name: row for row, name in enumerate(ELECTRODES)}


def check_electrodes(channels: Sequence[Electrode]) -> None:
    """Refuses what has no row.

    Raises:
        ValueError: If a name is unknown, or two names are one electrode.
    """
    canonical_names(electrode for electrode in channels if isinstance(electrode, str))
    for electrode in channels:
        if not isinstance(electrode, str):
            canonical_names(electrode)


class ElectrodeEmbedding(nn.Module):
    """Learned vector of every electrode, the same at every time step and in every corpus (EMOD section 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(ELECTRODES), width)
        # Small beside the tokens it is added to: rows of unit variance hide the signal from the first steps.
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, channels: Sequence[Electrode]) -> Tensor:
        """Look up electrodes by name.

        Args:
            channels: C names in any case, old names included (T3 is T7), or weights of names: ``{"F3": 0.5, "FC5":
                0.5}`` is the mean of two rows, ``{"F3": 1.0}`` the row of F3.

        Returns:
            (C, D) rows, in the order of ``channels``.

        Raises:
            ValueError: If a name is unknown, or two names are one electrode.
        """
        check_electrodes(channels)
        names = [electrode for electrode in channels if isinstance(electrode, str)]
        if len(names) == len(channels):
            return self.table.weight[[ROW_OF_ELECTRODE[name] for name in canonical_names(names)]]
        shares = self.table.weight.new_zeros(len(channels), len(ELECTRODES))
        for row, electrode in enumerate(channels):
            weights = {electrode: 1.0} if isinstance(electrode, str) else electrode
            for name, weight in zip(canonical_names(weights), weights.values(), strict=True):
                shares[row, ROW_OF_ELECTRODE[name]] = weight
        return shares @ self.table.weight
