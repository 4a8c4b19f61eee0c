"""The precision of a training step's matrix products: float32, or bfloat16 under autocast.

In: what the config asks for and the device. Out: the context a forward pass runs in. Weights, their
gradients, optimizer state, frozen tables, sparse products and the loss are float32 either way, and
so is everything that is validated or evaluated.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from cadc_rec.errors import CadcError


def forward_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a training forward pass runs in; made anew for each step, for it keeps cast weights.

    Args:
        precision: ``float32`` or ``bfloat16``.
        device: where the step runs.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # No public way to ask: AVX-512 with its bfloat16 instructions on x86, or their like on ARM.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def refuse_precision(precision: str, device: torch.device, supported: bool) -> None:
    """Raise where the device cannot train as asked.

    Raises:
        CadcError: bfloat16 was asked for and is not `supported`.
    """
    if precision == "bfloat16" and not supported:
        raise CadcError(
            f"train.precision = 'bfloat16': this {device.type.upper()} has no bfloat16 products; "
            "set it to 'float32'."
        )
