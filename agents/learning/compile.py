"""torch.compile, without which everything works as well."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Compiled(Generic[Arguments, Result]):
    """A function of tensors, compiled for each shape that it is called with.

    What comes again is compiled once; after a few shapes torch runs whatever else comes up as it is. Where the compiler fails, because
    there is none or by a fault of its own, there is one warning, and the function runs as it is from then on.
    """

    def __init__(self, function: Callable[Arguments, Result]) -> None:
        self._function = function
        self._compiled: Callable[Arguments, Result] | None = torch.compile(function, dynamic=False)

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if self._compiled is None:
            return self._function(*args, **kwargs)
        try:
            return self._compiled(*args, **kwargs)
        except Exception as error:
            # If the fault is the function's own, this raises it again, without the compiler around it.
            result = self._function(*args, **kwargs)
            self._compiled = None
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile fails here ({reason}): set learner.compile=false.", stacklevel=2)
            return result
