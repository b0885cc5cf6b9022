"""The lookup's GPU kernels, in Triton. Its modules need triton; `torchrec_pss.ops.lookup` does without where that is missing."""
