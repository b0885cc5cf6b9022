"""The shapes of public TorchRec programs, in our own words, each untouched, swapped and planned."""
