"""What a budget costs: ``torchrec-pss advise --help``."""
