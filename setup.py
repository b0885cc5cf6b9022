"""Build script: package metadata and the optional C++ CPU kernel.

The kernel is a library without Python, ``libtorchrec_pss_ops.so``: torch loads it for the package, and C++ programs
load it alone (torchrec_pss/cmake). It is optional. Where no C++ compiler works, the package installs without it and
``torchrec_pss.ops`` falls back to the plain PyTorch reference with one warning at import. Build with
``pip install --no-build-isolation .``, so that it is compiled against the torch that is installed.
"""

import os
import sys
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = run_path(str(ROOT / "torchrec_pss/version.py"))["__version__"]
# No calls of memcpy in place of loops: most copies are a few registers long. Nor of sqrt, for errno: roots are taken in registers.
COMPILE = [
    "-O3",
    "-g0",
    "-fopenmp",
    "-std=c++20",
    "-Wno-psabi",
    "-fno-tree-loop-distribute-patterns",
    "-fno-math-errno",
]
# For `make wheels`: its wheels are for one generation of torch, which names and metadata say.
FOR_THIS_TORCH = "TORCHREC_PSS_FOR_THIS_TORCH" in os.environ
# For `make sanitize`: AddressSanitizer and UndefinedBehaviorSanitizer.
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"]

# The array, its lookup and torchrec_pss.nn; TorchRec is an extra, for its own metadata demands FBGEMM's CUDA build.
REQUIRES = ["torch>=2.11,<2.14", "numpy>=1.26", "tqdm>=4.60"]
TORCHREC = ["torchrec>=1.6,<1.10", "torchmetrics>=1.0.3"]
REMOTE = ["universal_pathlib>=0.2.5", "fsspec>=2024.6"]
EXTRAS = {
    "torchrec": TORCHREC,
    "cuda": [*TORCHREC, "fbgemm-gpu>=1.6,<1.10"],
    "cpu": ["torchmetrics>=1.0.3", "fbgemm-gpu-cpu>=1.6,<1.10"],
    "examples": ["torchx>=0.7", "matplotlib>=3.8"],
    "safetensors": ["safetensors>=0.4"],
    "tensorboard": ["tensorboard>=2.14"],
    "serving": ["fastapi>=0.110", "uvicorn>=0.29", "prometheus-client>=0.20"],
    "retrieval": ["faiss-cpu>=1.8"],
    "data": ["pyarrow>=15", "PyYAML>=6"],
    "remote": REMOTE,
    "s3": [*REMOTE, "s3fs>=2024.6"],
    "gcs": [*REMOTE, "gcsfs>=2024.6"],
    "http": [*REMOTE, "aiohttp>=3.9"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "scikit-learn>=1.4",
        "torchx>=0.7",
        "matplotlib>=3.8",
        "kubernetes>=25",
        "safetensors>=0.4",
        "fastapi>=0.110",
        "uvicorn>=0.29",
        "prometheus-client>=0.20",
        "httpx>=0.27",
        "faiss-cpu>=1.8",
        "pandas>=2.2",
        "pyarrow>=15",
        "PyYAML>=6",
        "torchdata>=0.11",
        "universal_pathlib>=0.2.5",
        "s3fs>=2024.6",
        "moto[server]>=5",
        "nbconvert>=7.16",
        "ipykernel>=6.29",
    ],
    "lint": ["ruff>=0.9", "mypy>=1.15"],
    "docs": [
        "mkdocs-material>=9.5",
        "mkdocstrings-python>=1.12",
        "playwright>=1.45",
        "matplotlib>=3.8",
        "nbconvert>=7.16",
    ],
    "notebooks": ["nbconvert>=7.16", "ipykernel>=6.29", "matplotlib>=3.8"],
}


def generation() -> str:
    """Of the torch that is installed, such as "2.13": the C++ kernel loads into no other."""
    import torch

    return ".".join(torch.__version__.split(".")[:2])


def extension() -> dict:
    """setup() arguments for the C++ extension; empty, with a message, without torch."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        print("torchrec_pss: torch is not installed; building without the C++ kernel", file=sys.stderr)
        return {}

    class OptionalBuild(BuildExtension):
        """Builds the library, or says why not and goes on without it."""

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs | {"no_python_abi_suffix": True})

        def get_export_symbols(self, ext) -> list[str]:
            return []  # none of a Python module

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                self.skip(error)

        def get_outputs(self) -> list[str]:
            libraries = super().get_outputs()
            return [*libraries, *(str(Path(library).with_suffix(".torch")) for library in libraries)]

        def run(self) -> None:
            try:
                super().run()
                for built in self.extensions:
                    Path(self.get_ext_fullpath(built.name)).with_suffix(".torch").write_text(generation())
            except Exception as error:
                self.skip(error)

        def skip(self, error: Exception) -> None:
            print(
                f"torchrec_pss: the C++ kernel was not built ({error}); the plain PyTorch reference will be used",
                file=sys.stderr,
            )
            self.extensions = []

    class AnyPython(bdist_wheel):
        """The library has no Python in it: one wheel is for all of them."""

        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    sanitize = SANITIZE if os.environ.get("TORCHREC_PSS_SANITIZE") else []
    kernel = CppExtension(
        "torchrec_pss.libtorchrec_pss_ops",
        [str(source.relative_to(ROOT)) for source in sorted((ROOT / "torchrec_pss/ops/csrc").glob("*.cpp"))],
        include_dirs=[str(ROOT / "torchrec_pss/ops/csrc")],
        extra_compile_args=[*COMPILE, *sanitize],
        extra_link_args=[*sanitize[:1], "-Wl,-rpath,$ORIGIN/../torch/lib"],  # beside torch in site-packages
    )
    kernel.libraries = [name for name in kernel.libraries if name != "torch_python"]
    return {"ext_modules": [kernel], "cmdclass": {"build_ext": OptionalBuild, "bdist_wheel": AnyPython}}


setup(
    name="torchrec_pss",
    version=VERSION + (f"+torch{generation()}" if FOR_THIS_TORCH else ""),
    description="One small shared parameter array in place of TorchRec's embedding tables",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["torchrec_pss", "torchrec_pss.*"]),
    package_data={
        "torchrec_pss": ["cmake/*.cmake", "py.typed"],
        "torchrec_pss.ops": ["csrc/*"],
        "torchrec_pss.ops.triton": ["*.json"],
        "torchrec_pss.advise": ["calibration.json"],
    },
    install_requires=[f"torch=={generation()}.*", *REQUIRES[1:]] if FOR_THIS_TORCH else REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["torchrec-pss = torchrec_pss.commands:main"]},
    **extension(),
)
