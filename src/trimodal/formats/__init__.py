"""Save and load. One file per concern; exports of other runtimes will stand beside them."""

from trimodal.formats.artifact import is_artifact, load, open_model, size_of, write
from trimodal.formats.folder import check_free, whole_folder
from trimodal.formats.fresh import reload_checks

__all__ = ["check_free", "is_artifact", "load", "open_model", "reload_checks", "size_of", "whole_folder", "write"]
