"""One number for the weights of a model: what tells whether two features may be compared."""

import hashlib
from collections.abc import Mapping

import torch


def model_hash(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The sha256, 64 hex digits, of a model's tensors: their names, dtypes, shapes and bytes.

    The order of the names does not count, nor the device, nor how a tensor lies in memory.

    Args:
        state_dict: of a `ReidModel`, or `Checkpoint.model`.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        # The lengths first: no two mappings are written alike.
        word = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        digest.update(f"{len(word)} {tensor.nbytes}\n".encode())
        digest.update(word)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
