"""Which of a KJT's features a module reads, in its own order: some of them, or one of them several times."""

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.modules.input_checks import require_sound_offsets


def select(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """The named features, in that order; the KJT itself where that is what it holds already. TorchScript compiles this function.

    Weights get the right gradient. FBGEMM's backward of `KeyedJaggedTensor.permute` is right of true permutations only: of fewer features it
    writes outside its output, of repeated ones it takes the last one's gradient. So those are indexed, whether or not the weights at
    hand need a gradient: those of an exported program's later calls may.
    Of a key that a KJT has twice the last is read, as by TorchRec's modules.
    """
    keys = features.keys()
    position_of: dict[str, int] = {}
    for position, key in enumerate(keys):
        position_of[key] = position
    positions = [position_of[name] for name in names]
    if positions == list(range(len(keys))):
        return features
    weights = features.weights_or_none()
    if weights is None or sorted(positions) == list(range(len(keys))):
        return features.permute(positions)
    values = features.values()
    places = KeyedJaggedTensor(
        keys, torch.arange(values.numel(), device=values.device), lengths=features.lengths(), stride=features.stride()
    ).permute(positions)
    at = places.values()
    return KeyedJaggedTensor(places.keys(), values[at], weights[at], lengths=places.lengths(), stride=places.stride())


def checked_select(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """
    Raises:
        IndexError: malformed offsets, on the CPU. FBGEMM's permute would write outside its output; the lookup finds
            them by itself, and on a GPU a look at them would make the host wait.
    """
    if features.keys() != names and features.device().type == "cpu" and not torch.compiler.is_compiling():
        require_sound_offsets(features)
    return select(features, names)
