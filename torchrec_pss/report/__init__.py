"""`torchrec-pss report`: a page about training runs on a shared array."""
