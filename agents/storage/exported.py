"""An agent as a folder in the layout of the Hugging Face hub: weights as safetensors, the rest as plain text.

    model.safetensors   the weights
    config.json         environments, length of the training, versions
    config.yaml         the configuration, as in a run folder
    vocabulary.json     tasks in the order of their ids, words in the order of their tokens

It holds no state of the training, which cannot be resumed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from agents.storage.checkpoint_schema import FORM
from system.errors import InputError
from system.files import open_ordinary, read_json, write_json, write_whole
from system.plain_data import COUNT, PlainDataError, check_form, plain_copy
from system.plain_yaml import read_yaml

WEIGHTS, ABOUT, CONFIG, VOCABULARY = "model.safetensors", "config.json", "config.yaml", "vocabulary.json"

FORMAT, SCHEMA = "mimpala-agent", 1

MOST_HEADER_BYTES = 2**20
"""Far more than the names and shapes of any agent's weights take."""

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, a little-endian integer."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
_ABOUT_FORM = {"env": dict, "updates": COUNT, "steps": COUNT, "versions": {str: str}}
_VOCABULARY_FORM = {"words": [str]}


def is_exported(path: Path) -> bool:
    """Whether `path` is the file of an exported agent's weights."""
    return path.name == WEIGHTS


def write_exported(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the agent of a checkpoint's content. Raises OSError if the disk refuses."""
    from safetensors import torch as safetensors

    counters, env = content["learner"]["counters"], dict(content["env"])
    words = env.pop("vocabulary")
    about = {"format": FORMAT, "schema": SCHEMA, "updates": counters["updates"], "steps": counters["steps"]}
    # Copies, because weights of one layer may be views of one buffer, which the format does not allow.
    weights = {name: weight.detach().clone().contiguous() for name, weight in content["learner"]["network"].items()}
    write_whole(folder / WEIGHTS, safetensors.save(weights, {"format": "pt"}))
    write_whole(folder / CONFIG, yaml.safe_dump(content["config"], sort_keys=False, allow_unicode=True))
    write_json(folder / VOCABULARY, {"tasks": env["tasks"], "words": words})
    write_json(folder / ABOUT, {**about, "env": env, "versions": content["versions"]})


def read_exported(weights: Path) -> dict[str, Any]:
    """The content of the folder of this weights' file, in the form of a checkpoint's content. Nothing in it is executed.

    Raises InputError if a file is missing, damaged, crafted, or of another schema.
    """
    folder = weights.parent
    about, vocabulary = _read_json(folder / ABOUT), _read_json(folder / VOCABULARY)
    if about.get("format") != FORMAT or about.get("schema") != SCHEMA:
        raise InputError(
            f"{folder / ABOUT} describes no agent that this version of mimpala has exported: export it again."
        )
    try:
        check_form(about, _ABOUT_FORM)
        check_form(vocabulary, _VOCABULARY_FORM)
        content = {
            "config": read_yaml(folder / CONFIG),
            "env": {**about["env"], "vocabulary": vocabulary["words"]},
            "learner": {
                "network": read_weights(weights),
                "counters": {"updates": about["updates"], "steps": about["steps"]},
            },
            "versions": about["versions"],
        }
        check_form(content, FORM, complete=False)
    except PlainDataError as error:
        raise _damaged(folder, f"it holds {error}") from error
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. InputError if it is missing, damaged or crafted."""
    from safetensors import SafetensorError
    from safetensors import torch as safetensors

    try:
        with open(open_ordinary(path), "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the folder of an exported agent.") from error
    if int.from_bytes(content[:_LENGTH_BYTES], "little") > min(MOST_HEADER_BYTES, len(content)):
        raise _damaged(path, "its header is too long")
    try:
        # The library checks that the tensors lie in the file, side by side.
        weights = safetensors.load(content)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        raise _damaged(path, type(error).__name__) from error
    for name, weight in weights.items():
        if weight.dtype not in _DTYPES:
            raise _damaged(path, f"{name} is of type {weight.dtype}")
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content is None:
        raise InputError(f"{path} is missing or holds no JSON object: give the folder of an exported agent.")
    try:
        copy: dict[str, Any] = plain_copy(content)
    except PlainDataError as error:
        raise _damaged(path, f"it holds {error}") from error
    return copy


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is damaged or crafted ({reason}): download or export it again.")
