"""The distance-aware contrastive loss of EMOD (eq. 5-6), and the pair weights of its rivals.

A weight matrix says which pairs attract; one loss serves all of them. Augmentation and sampling are elsewhere.
Call it outside autocast: at temperature 0.07 half-precision similarities are too coarse. Shapes: B windows of the
(global) batch, P projection width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from emod.objective.gather import gather_rows


def va_weights(va: Tensor, *, d_max: float) -> Tensor:
    """Similarity of every pair of windows on the valence-arousal plane: max(0, 1 - distance / d_max) (EMOD eq. 5).

    Args:
        va: (B, 2) points, each coordinate in [-4, 4]; integers too.
        d_max: Distance at and beyond which a pair counts as negative, in plane units, > 0.

    Returns:
        (B, B), symmetric, in [0, 1], zero on the diagonal.

    Raises:
        ValueError: If ``d_max`` is not positive.
    """
    if not d_max > 0:
        raise ValueError(f"d_max = {d_max}: give a distance above 0, in plane units")
    va = va if va.is_floating_point() else va.float()  # words are whole points
    # The matrix-product form of cdist loses half of the digits between near points.
    distance = torch.cdist(va, va, compute_mode="donot_use_mm_for_euclid_dist")
    return (1 - distance / d_max).clamp(min=0).fill_diagonal_(0)


def same_id_weights(ids: Tensor) -> Tensor:
    """Weight 1 for every pair of rows with one id: (B,) integers -> (B, B) of 0 and 1, zero on the diagonal.

    With va_region as ids these are the positives of the paper's HardVA; with the number of the window that a row is
    an augmented view of, those of its Augment.
    """
    return (ids[:, None] == ids).to(torch.get_default_dtype()).fill_diagonal_(0)


def contrastive_loss(z: Tensor, weights: Tensor, temperature: float = 0.07) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of each anchor's similarities to all other rows, averaged over anchors (EMOD eq. 6).

    L = mean_i -sum_{j != i} w_ij log(exp(z_i.z_j / t) / sum_{k != i} exp(z_i.z_k / t)) / sum_{j != i} w_ij.
    The mean is over ALL anchors: one without a positive weight adds 0 and still counts in the denominator. (The paper
    writes a sum over anchors, its code a mean.)

    Args:
        z: (B, P) unit rows, B >= 2.
        weights: (B, B), >= 0; its diagonal is ignored.
        temperature: t > 0.

    Returns:
        The scalar loss, and the number of anchors without a positive weight (integer scalar).

    Raises:
        ValueError: If there are fewer than two rows, ``weights`` are not one for each pair, or ``temperature`` is not
            positive.
    """
    if len(z) < 2:
        raise ValueError(f"z has {len(z)} row(s): a contrast needs at least 2")
    if weights.shape != (len(z), len(z)):
        raise ValueError(f"weights of shape {tuple(weights.shape)} for {len(z)} rows: give one for each pair")
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: give a number above 0")
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    weights = weights.to(z.dtype).masked_fill(itself, 0)
    log_p = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1).masked_fill(itself, 0)
    total = weights.sum(dim=1)
    alone = total == 0
    per_anchor = -(weights * log_p).sum(dim=1) / total.masked_fill(alone, 1)
    return per_anchor.mean(), alone.sum()


def va_contrastive_loss(
    z: Tensor, va: Tensor, temperature: float = 0.07, d_max: float = 5.0, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The loss EMOD is pretrained with: all pairs attract by their closeness on the plane (EMOD eq. 5-6).

    With a group, every rank returns the same loss over the rows of all ranks, and its gradient reaches the local rows
    through both sides of every pair: W workers with b rows give the loss and row gradients of one worker with W * b.
    How to combine parameter gradients is said in ``emod.objective.gather``.

    Args:
        z: (B, P) unit rows, this rank's.
        va: (B, 2) their points on the plane, each coordinate in [-4, 4].
        temperature: > 0.
        d_max: Distance at and beyond which a pair is negative, > 0.
        group: Ranks whose rows count; None takes only the rows given.

    Returns:
        Scalar.

    Raises:
        ValueError: As ``va_weights`` and ``contrastive_loss``.
    """
    if group is not None:
        z, va = gather_rows(z, group)[0], gather_rows(va, group)[0]
    return contrastive_loss(z, va_weights(va, d_max=d_max), temperature)[0]
