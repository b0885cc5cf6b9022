"""What a budget costs: ``python -m torchrec_pss.advise --help``."""
