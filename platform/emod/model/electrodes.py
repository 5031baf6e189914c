"""The electrode dictionary E_s: one learned row per canonical electrode name.

Does not place electrodes on the head and does not invent rows: an electrode without a row is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from emod.signal.montage import ELECTRODES, canonical_names

ROW_OF_ELECTRODE = {name: row for row, name in enumerate(ELECTRODES)}


class ElectrodeEmbedding(nn.Module):
    """Learned vector of every electrode, the same at every time step and in every corpus (EMOD section 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(ELECTRODES), width)
        # Small beside the tokens it is added to: rows of unit variance hide the signal from the first steps.
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, channels: Sequence[str]) -> Tensor:
        """Look up electrodes by name.

        Args:
            channels: C names in any case, old names included (T3 is T7).

        Returns:
            (C, D) rows, in the order of ``channels``.

        Raises:
            ValueError: If a name is unknown, or two names are one electrode.
        """
        rows = [ROW_OF_ELECTRODE[name] for name in canonical_names(channels)]
        return self.table.weight[rows]
