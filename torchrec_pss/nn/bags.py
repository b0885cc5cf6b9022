"""`Bags`: the bags of several features in one tensor, feature after feature, as a `KeyedJaggedTensor` has them."""

from collections.abc import Mapping, Sequence

import torch

from torchrec_pss.ranges import shown

Ids = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Bags:
    """What a lookup reads of a `KeyedJaggedTensor`, for features that are given by name.

    Args:
        ids: of each feature: ``[B]``, one id a bag; ``[B, L]``, L of them; or ``(ids [n], offsets [B])``, as `torch.nn.EmbeddingBag`
            takes them, where a bag begins. int32 or int64, all of one dtype and B.
        weights: of each feature, as many as ids and in their shape; None without.
        names: the features, in the order in which they are wanted.

    Raises:
        KeyError: a feature is missing, or has no weights.
        TypeError: what is no tensor.
        IndexError: offsets that leave a feature's ids.
        ValueError: shapes that do not fit each other; names the feature.
    """

    def __init__(
        self, ids: Mapping[str, Ids], names: Sequence[str], weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        if not isinstance(ids, Mapping):
            raise TypeError(f"ids must be a mapping from features to tensors, got {shown(ids)}")
        missing = [name for name in names if name not in ids]
        if missing:
            raise KeyError(f"feature {missing[0]!r} is not among those given, {sorted(ids)}")
        parts = {name: _flat(name, ids[name]) for name in dict.fromkeys(names)}
        sizes = {name: begins.shape[0] for name, (_, begins) in parts.items()}
        self._stride = next(iter(sizes.values()))
        other = next((name for name, size in sizes.items() if size != self._stride), None)
        if other is not None:
            raise ValueError(f"feature {other!r} has {sizes[other]} bags, and {names[0]!r} {self._stride}")
        self._names = list(names)
        values = [parts[name][0] for name in names]
        if len({v.dtype for v in values}) > 1:
            kinds = {name: str(parts[name][0].dtype) for name in names}
            raise ValueError(f"ids of all features must have one dtype, got {kinds}")
        self._values = torch.cat(values)
        begins, before = [], 0
        for name in names:
            begins.append(parts[name][1] + before)
            before += parts[name][0].numel()
        self._offsets = torch.cat([*begins, begins[0].new_full((1,), before)])
        self._weights = None if weights is None else _weights(weights, self._names, parts)

    def keys(self) -> list[str]:
        """Names of the features."""
        return self._names

    def values(self) -> torch.Tensor:
        """Ids, ``[n]``."""
        return self._values

    def offsets(self) -> torch.Tensor:
        """int64 ``[features * B + 1]``."""
        return self._offsets

    def weights(self) -> torch.Tensor:
        """``[n]``."""
        assert self._weights is not None
        return self._weights

    def weights_or_none(self) -> torch.Tensor | None:
        """``[n]``, where there are any."""
        return self._weights

    def stride(self) -> int:
        """B."""
        return self._stride


def _flat(name: str, given: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[n]``, and where each bag begins."""
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, torch.Tensor) for part in given):
        ids, begins = given
        if ids.dim() != 1 or begins.dim() != 1:
            shapes = f"{list(ids.shape)}, offsets {list(begins.shape)}"
            raise ValueError(f"feature {name!r}: ids and offsets must have one dimension, got ids {shapes}")
        if begins.is_floating_point() or begins.dtype == torch.bool:
            raise ValueError(f"feature {name!r}: offsets must be int32 or int64, got {begins.dtype}")
        _require_inside(name, begins, ids.numel())
        return ids, begins.long()
    if not isinstance(given, torch.Tensor):
        raise TypeError(
            f"feature {name!r}: ids must be a tensor, or a pair of tensors (ids, offsets), got {shown(given)}"
        )
    if given.dim() not in (1, 2):
        raise ValueError(f"feature {name!r}: ids must be [B] or [B, L], got {list(given.shape)}")
    length = given.shape[1] if given.dim() == 2 else 1
    return given.reshape(-1), torch.arange(given.shape[0], device=given.device) * length


def _require_inside(name: str, begins: torch.Tensor, numel: int) -> None:
    """
    Raises:
        IndexError: offsets that leave the feature's own ids. Joined with other features' they would read those. On a GPU it is that
            device's assertion, for nobody waits for it.
    """
    if begins.numel() == 0 or torch.compiler.is_compiling():
        return
    sound = (begins[0] == 0) & (begins[-1] <= numel) & (begins.diff() >= 0).all()
    if begins.device.type == "cpu":
        if not bool(sound):
            told = begins.tolist() if begins.numel() <= 8 else [*begins[:4].tolist(), "...", *begins[-2:].tolist()]
            raise IndexError(
                f"feature {name!r}: offsets must start at 0, must not decrease, and end within its {numel} ids, got {told}"
            )
    elif begins.device.type == "cuda":
        torch._assert_async(sound, f"feature {name!r}: offsets leave its ids")


def _weights(
    weights: Mapping[str, torch.Tensor], names: Sequence[str], parts: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    for name in names:
        if weights.get(name) is None:
            raise KeyError(f"feature {name!r} has ids, but no weights")
        if not isinstance(weights[name], torch.Tensor):
            raise TypeError(f"feature {name!r}: weights must be a tensor, got {shown(weights[name])}")
        if weights[name].numel() != parts[name][0].numel():
            raise ValueError(f"feature {name!r} has {weights[name].numel()} weights for {parts[name][0].numel()} ids")
    return torch.cat([weights[name].reshape(-1) for name in names])
