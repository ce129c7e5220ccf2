"""Save and load. One file per concern; exports of other runtimes will stand beside them."""

from trimodal.formats.artifact import (
    check_tellers,
    copy_artifact,
    is_artifact,
    left_behind,
    load,
    open_model,
    pack_,
    pack_name,
    size_of,
    stock_of,
    unpack_,
    write,
    write_sums,
)
from trimodal.formats.folder import check_free, check_keeps, whole_folder, write_whole
from trimodal.formats.fresh import reload_checks, stock_check
from trimodal.formats.packed import check_pack

__all__ = [
    "check_free", "check_keeps", "check_pack", "check_tellers", "copy_artifact", "is_artifact", "left_behind", "load",
    "open_model", "pack_", "pack_name", "reload_checks", "size_of", "stock_check", "stock_of", "unpack_", "whole_folder", "write",
    "write_sums", "write_whole",
]  # fmt: skip
