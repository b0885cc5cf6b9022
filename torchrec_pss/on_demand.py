"""Names of a package that are imported when they are first asked for: torch alone is enough for some, others need TorchRec."""

from collections.abc import Callable, Mapping
from importlib import import_module

_TORCHREC = ("torchrec", "fbgemm_gpu", "torchmetrics", "tensordict")  # it, and what it does not go without


def on_demand(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        names: of what it has, each with the module that defines it; "" for a module of the package itself.
    """
    namespace = vars(import_module(package))

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = names[name]
        try:
            value = getattr(import_module(module), name) if module else import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in _TORCHREC:
                raise
            raise ImportError(
                f"{package}.{name} needs {error.name}: install torchrec, and fbgemm-gpu or fbgemm-gpu-cpu (torchrec-pss doctor "
                "says which); where torch alone is installed, torchrec_pss.nn has the array"
            ) from error
        namespace[name] = value
        return value

    def directory() -> list[str]:
        return sorted({*namespace, *names})

    return get, directory
