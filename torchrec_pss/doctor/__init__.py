"""``torchrec-pss doctor``: what is installed and active here, and a remedy for each known trouble."""
