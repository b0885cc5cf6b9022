"""Before any test module imports Triton, as fbgemm_gpu does: without a GPU its kernels are interpreted. And before the first lookup:
threads share the work of small cases too."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("TORCHREC_PSS_PARALLEL_ELEMENTS", "16384")
