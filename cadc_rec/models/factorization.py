"""How the rows of a factorization are scored: factors and bias in one vector."""

from __future__ import annotations

import torch


def user_side(rows: torch.Tensor) -> torch.Tensor:
    """``[n, factors + 2]`` of ``[n, factors + 1]``, the bias last: (u', u_bias, 1)."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)


def item_side(rows: torch.Tensor) -> torch.Tensor:
    """``[n, factors + 2]`` of ``[n, factors + 1]``, the bias last: (v', 1, v_bias)."""
    return torch.cat([rows[:, :-1], torch.ones_like(rows[:, :1]), rows[:, -1:]], 1)


def as_dot_products(user: torch.Tensor, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors whose plain dot product is the score, less the global bias.

    Args:
        user: ``[n_users, factors + 1]``, the bias last.
        item: ``[n_items, factors + 1]``, the bias last.

    Returns:
        ``[n_users, factors + 2]`` and ``[n_items, factors + 2]``.
    """
    return user_side(user), item_side(item)
