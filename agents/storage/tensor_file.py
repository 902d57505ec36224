"""Files of tensors and plain data: written atomically with a checksum, and read without executing anything."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.storage.checksum import checksum_fits, seal
from agents.storage.torch_zip import DamagedCheckpointError, checked_archive
from system.errors import InputError
from system.files import write_whole
from system.plain_data import PlainDataError, plain_copy


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain data atomically. Raises OSError, and keeps an earlier file, if the disk refuses."""
    # Into memory first, because torch does not report a full disk as OSError.
    archive = io.BytesIO()
    torch.save(content, archive)
    seal(archive)
    write_whole(path, archive.getbuffer())


def read_tensors(path: Path) -> tuple[Any, bool]:
    """The content of a file, on the CPU, and whether the file has a checksum. Only tensors and plain data are accepted.

    DamagedCheckpointError if the file is truncated, damaged or crafted; InputError if it is missing, or cannot be opened or read here.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give a run folder or a checkpoint file.")
    try:
        fits = checksum_fits(path)
    except PermissionError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror}): ask for permission to.") from error
    except OSError as error:
        raise DamagedCheckpointError(path, f"cannot be read ({error.strerror})") from error
    if fits is False:
        raise DamagedCheckpointError(path, "is damaged (its checksum is another)")
    archive = checked_archive(path)
    try:
        content = plain_copy(torch.load(archive, map_location="cpu", weights_only=True), also={Tensor: plain_tensor})
    except PlainDataError as error:
        raise crafted_error(path, error) from error
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(
            path, "holds more than tensors and plain data and was not loaded, so do not trust it"
        ) from error
    except Exception as error:
        # torch reports a damaged archive by many kinds of exceptions.
        if fits is None:
            raise DamagedCheckpointError(path, f"is damaged ({type(error).__name__})") from error
        raise InputError(
            f"checkpoint {path} is whole but cannot be read here ({type(error).__name__}): use the versions that wrote it."
        ) from error
    return content, fits is not None


def plain_tensor(tensor: Tensor) -> Tensor:
    """A dense tensor that shares its memory and nothing else. Raises PlainDataError for a tensor of a kind that no run saves."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        raise PlainDataError("a tensor of a kind that no run saves")
    # With a stride of 0 a tensor repeats one element many times.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PlainDataError("a tensor with more elements than it has memory")
    return tensor.detach()


def crafted_error(path: Path, error: PlainDataError) -> DamagedCheckpointError:
    """The error for a file with values that mimpala never writes."""
    return DamagedCheckpointError(path, f"is damaged or crafted (it holds {error})")
