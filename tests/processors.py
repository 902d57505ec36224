"""What tests need of the processor."""

from __future__ import annotations

import pytest

from agents.setup import machine

needs_bf16_lstm = pytest.mark.skipif(
    not machine.has_bf16_lstm(), reason="torch has no LSTM in bf16 for this processor, or one that pretends to be a GPU"
)
