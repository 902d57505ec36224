"""torch.compile with a fallback: if the compiler fails, the function runs uncompiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Compiled(Generic[Arguments, Result]):
    """A function of tensors that is compiled once for each combination of shapes.

    torch compiles a few combinations and runs further ones uncompiled. If the compiler fails or is missing, a call warns once, and this
    and all later calls run the function uncompiled.
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
            # An error of the function itself is raised again here, without the compiler's frames.
            result = self._function(*args, **kwargs)
            self._compiled = None
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile fails here ({reason}): set learner.compile=false.", stacklevel=2)
            return result
