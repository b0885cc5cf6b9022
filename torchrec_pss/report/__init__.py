"""`torchrec-pss report`: a page about training runs on a shared array; and `drawn_layout`, an array as a picture."""

from torchrec_pss.report.layout_bar import drawn_layout

__all__ = ["drawn_layout"]
