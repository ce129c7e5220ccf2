"""Save and load. One file per concern; exports of other runtimes will stand beside them."""

from trimodal.formats.artifact import is_artifact, load, open_model, size_of, write
from trimodal.formats.folder import check_free, check_keeps, whole_folder, write_whole
from trimodal.formats.fresh import reload_checks

__all__ = [
    "check_free", "check_keeps", "is_artifact", "load", "open_model", "reload_checks", "size_of", "whole_folder", "write",
    "write_whole",
]  # fmt: skip
