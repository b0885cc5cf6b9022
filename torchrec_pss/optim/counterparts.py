"""`counterpart`: what stands on a shared array for an optimizer in backward that TorchRec or FBGEMM names.

TorchRec's classes are names of FBGEMM's kernels, which keep a number a row. An element of an array belongs to many rows, so that
what is a row's becomes an element's: exact Adagrad for row-wise Adagrad, Adam for Adam with one second moment a row. What needs a
row's norm (LAMB, LARS) has none. Options have FBGEMM's names and defaults (docs/project/parity.md).
"""

import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
import torchrec.optim as torchrec_optim
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn

from torchrec_pss.ranges import shown

OptimizerClass = type[torch.optim.Optimizer]
_KINDS = {
    torchrec_optim.SGD: EmbOptimType.EXACT_SGD,
    torchrec_optim.Adagrad: EmbOptimType.EXACT_ADAGRAD,
    torchrec_optim.RowWiseAdagrad: EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    torchrec_optim.Adam: EmbOptimType.ADAM,
    torchrec_optim.PartialRowWiseAdam: EmbOptimType.PARTIAL_ROWWISE_ADAM,
    torchrec_optim.LAMB: EmbOptimType.LAMB,
    torchrec_optim.PartialRowWiseLAMB: EmbOptimType.PARTIAL_ROWWISE_LAMB,
    torchrec_optim.LarsSGD: EmbOptimType.LARS_SGD,
}
_NAMES = {kind: f"torchrec.optim.{cls.__name__}" for cls, kind in _KINDS.items()}
_OF_TORCH: dict[
    OptimizerClass, tuple[str, ...]
] = {  # TorchRec's tables take these too; options that mean the same there
    torch.optim.SGD: ("lr",),
    torch.optim.Adagrad: ("lr", "eps"),
    torch.optim.Adam: ("lr", "eps", "betas"),
}
_RATE = 0.01
_ADAGRAD = ("lr", "eps", "initial_accumulator_value", "lr_decay", "weight_decay", "weight_decay_mode")
_ADAM = ("lr", "eps", "betas", "beta1", "beta2", "weight_decay")
_TAKEN = {
    EmbOptimType.EXACT_SGD: ("lr",),
    EmbOptimType.EXACT_ADAGRAD: tuple(name for name in _ADAGRAD if not name.startswith("weight_decay")),
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: _ADAGRAD,
    EmbOptimType.ADAM: _ADAM,
    EmbOptimType.PARTIAL_ROWWISE_ADAM: _ADAM,
}
# FBGEMM's options of optimizers; its others are of a table's storage, which an array has not.
_OPTIONS = {"optimizer", "learning_rate", "lr", "eps", "beta1", "beta2", "betas", "weight_decay", "weight_decay_mode"} | {
    "momentum", "eta", "gradient_clipping", "max_gradient", "max_norm", "ensemble_mode", "emainplace_mode", "counter_based_regularization",
    "cowclip_regularization", "global_weight_decay", "extra_optimizer_config", "initial_accumulator_value", "lr_decay",
}  # fmt: skip
_PASSED_OVER = (
    "eps",
    "beta1",
    "beta2",
    "betas",
    "eta",
)  # where a formula has them not, as FBGEMM does: they promise nothing
_TORCHRECS_OWN = {
    "self",
    "embedding_specs",
    "feature_table_map",
    "pooling_mode",
    "weights_precision",
    "device",
    "table_names",
}
_FBGEMM = {
    name: parameter
    for name, parameter in inspect.signature(SplitTableBatchedEmbeddingBagsCodegen.__init__).parameters.items()
    if name not in _TORCHRECS_OWN  # what TorchRec gives its kernels itself
}


def counterpart(optimizer_class: OptimizerClass, kwargs: Mapping[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    """The class and arguments that step an array.

    Args:
        optimizer_class: one of `torchrec.optim`; or any other, which stands for itself.
        kwargs: the optimizer's, as `apply_optimizer_in_backward` takes them; also ``learning_rate`` for ``lr``, and ``optimizer``, for
            TorchRec's sharders rewrite them in place.

    Raises:
        ValueError: a class without a counterpart, or an option that it has not, or a value that is none; names both and what to write
            instead.
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise ValueError(f"an optimizer in backward must be a class of optimizers, got {optimizer_class!r}")
    options = _with_lr(kwargs)
    if optimizer_class not in _KINDS:
        name = next((base for base in _KINDS if issubclass(optimizer_class, base)), None)
        named = name is not None and name is not torchrec_optim.RowWiseAdagrad
        if name is not None and named and inspect.unwrap(optimizer_class.step) is inspect.unwrap(name.step):
            raise ValueError(
                f"{optimizer_class.__name__} is derived from torchrec.optim.{name.__name__}, which is the name of an FBGEMM kernel and has no "
                f"step; give torchrec.optim.{name.__name__} itself, or derive from torch.optim's"
            )
        return optimizer_class, options
    return _of_kind(_KINDS[optimizer_class], options)


def of_fused_params(fused_params: Mapping[str, Any] | None) -> tuple[OptimizerClass, dict[str, Any]] | None:
    """The same of a sharder's ``fused_params``; None where they name no optimizer and no option of one: then the array is left to an
    ordinary optimizer. Without ``optimizer`` it is FBGEMM's default, SGD. Options of a table's storage have no use here.

    Raises:
        ValueError: as `counterpart`; a name that FBGEMM does not know; a value of ``optimizer`` that is no `EmbOptimType`.
    """
    options = optimizer_options(fused_params or {})
    if not options:
        return None
    kind = options.pop("optimizer", EmbOptimType.EXACT_SGD)
    if not isinstance(kind, EmbOptimType):
        raise ValueError(
            f"fused_params: optimizer must be one of {', '.join(f'EmbOptimType.{k.name}' for k in _TAKEN)}, got {kind!r}"
        )
    return _of_kind(kind, _with_lr(options))


def optimizer_of(
    parameter: nn.Parameter, fused_params: Mapping[str, Any] | None, name: str
) -> tuple[OptimizerClass, dict[str, Any]] | None:
    """What `apply_optimizer_in_backward` put on a parameter, as it stands on an array; else a sharder's ``fused_params``, whose options
    are also those of a class that TorchRec knows and that leaves them open. None where there is neither.

    Raises:
        ValueError: as `counterpart`; several optimizers; ``fused_params`` that mean another thing in such a class of torch.optim; each
            with ``name``.
    """
    classes = getattr(parameter, "_optimizer_classes", [])
    if len(classes) > 1:
        raise ValueError(
            f"{name}: {len(classes)} optimizers in backward ({', '.join(c.__name__ for c in classes)}); give it one"
        )
    try:
        if not classes:
            return of_fused_params(fused_params)
        marked: Any = parameter  # by `apply_optimizer_in_backward`
        given = _with_lr(marked._optimizer_kwargs[0])
        return counterpart(classes[0], _left_open(classes[0], given, fused_params or {}) | given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _left_open(
    optimizer_class: OptimizerClass, given: Mapping[str, Any], fused_params: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of ``fused_params`` that TorchRec's tables would take beside those that were given to the optimizer.

    Raises:
        ValueError: one that is not the class's own.
    """
    options = _with_lr(optimizer_options(fused_params))
    if optimizer_class not in _OF_TORCH:
        return options if optimizer_class in _KINDS else {}
    taken = _OF_TORCH[optimizer_class]
    if "betas" not in options and ("beta1" in options or "beta2" in options):
        options["betas"] = options.get("beta1", 0.9), options.get("beta2", 0.999)
    for option, value in options.items():
        if option not in (*taken, *given, *_PASSED_OVER) and not _is_off(option, value):
            raise ValueError(
                f"torch.optim.{optimizer_class.__name__} in backward stands for itself on a shared array and takes of fused_params "
                f"{', '.join(taken)}, not {option}={value!r}: give it to the optimizer"
            )
    return {option: value for option, value in options.items() if option in taken}


def set_optimizer(parameter: nn.Parameter, optimizer: tuple[OptimizerClass, dict[str, Any]] | None) -> None:
    """Puts on a parameter what `optimizer_of` found."""
    if optimizer is not None:
        marked: Any = parameter
        marked._optimizer_classes, marked._optimizer_kwargs = [optimizer[0]], [optimizer[1]]


def optimizer_options(fused_params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``fused_params`` that are an optimizer's.

    Raises:
        ValueError: a name that FBGEMM does not know, or what maps no names.
    """
    if not isinstance(fused_params, Mapping):
        raise ValueError(f"fused_params must be a dict of options such as 'learning_rate', got {shown(fused_params)}")
    unknown = [
        n
        for n in fused_params
        if n not in _OPTIONS and n not in _FBGEMM and not str(n).startswith(("__", "ssd_", "kvzch"))
    ]
    if unknown:
        raise ValueError(
            f"fused_params: FBGEMM has no option {', '.join(map(repr, unknown))}; of optimizers it has {sorted(_OPTIONS)}"
        )
    return {name: value for name, value in fused_params.items() if name in _OPTIONS}


def _with_lr(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """FBGEMM's name of the rate is written as torch's; the class stands apart."""
    options = {name: value for name, value in kwargs.items() if name not in ("optimizer", "learning_rate")}
    return ({"lr": kwargs["learning_rate"]} if "learning_rate" in kwargs else {}) | options


def _of_kind(kind: EmbOptimType, options: dict[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    name = _NAMES.get(kind, f"EmbOptimType.{kind.name}")
    if kind not in _TAKEN:
        raise ValueError(
            f"{name} has no counterpart on a shared array: it needs a norm or a state of each row, and an element belongs to many rows; "
            "use torchrec.optim.Adam or RowWiseAdagrad"
        )
    given = {n: v for n, v in options.items() if not _is_off(n, v) and (n in _TAKEN[kind] or n not in _PASSED_OVER)}
    other = [n for n in given if n not in _TAKEN[kind]]
    if other:
        raise ValueError(
            f"{name} on a shared array has no option {', '.join(f'{n}={given[n]!r}' for n in other)}; it has {', '.join(_TAKEN[kind])}"
        )
    _check_values(name, given)
    return _MAKERS[kind](name, given)


def _check_values(name: str, given: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: an option that is no number, or of the betas no two.
    """
    for option, value in given.items():
        numbers, what = [value], "a number"
        if option == "betas":
            numbers, what = value, "two numbers"
            if not isinstance(value, list | tuple) or len(value) != 2:
                numbers = [None]
        if option != "weight_decay_mode" and not all(isinstance(n, Real | torch.Tensor) for n in numbers):
            raise ValueError(f"{name}: {option} must be {what}, got {shown(value)}")


def _is_off(option: str, value: Any) -> bool:
    """Whether an option has FBGEMM's default value, which does nothing."""
    if option in _FBGEMM and option not in ("lr", "eps", "beta1", "beta2", "momentum", "eta"):
        return value is _FBGEMM[option].default or value == _FBGEMM[option].default
    return False


def _sgd(name: str, given: dict[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    return torch.optim.SGD, {"lr": _RATE} | given


def _adagrad(name: str, given: dict[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    mode, decay = given.pop("weight_decay_mode", None), given.get("weight_decay", 0.0)
    if decay and getattr(mode, "name", mode) != "L2":
        raise ValueError(
            f"{name} on a shared array: weight_decay={decay} with weight_decay_mode={mode} has no counterpart (FBGEMM's default mode "
            "does nothing with it); give weight_decay_mode=WeightDecayMode.L2, or leave weight_decay out"
        )
    return torch.optim.Adagrad, {"lr": _RATE, "eps": 1e-8} | given


def _adam(name: str, given: dict[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    """FBGEMM's decay is decoupled."""
    beta1, beta2 = given.pop("betas", (0.9, 0.999))
    betas = given.pop("beta1", beta1), given.pop("beta2", beta2)
    optimizer_class = torch.optim.AdamW if given.get("weight_decay") else torch.optim.Adam
    return optimizer_class, {"lr": _RATE, "eps": 1e-8, "betas": betas} | given


_MAKERS: dict[EmbOptimType, Callable[..., Any]] = {
    EmbOptimType.EXACT_SGD: _sgd,
    EmbOptimType.EXACT_ADAGRAD: _adagrad,
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: _adagrad,
    EmbOptimType.ADAM: _adam,
    EmbOptimType.PARTIAL_ROWWISE_ADAM: _adam,
}
