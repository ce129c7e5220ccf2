"""Save and load. One file per concern; exports of other runtimes will stand beside them."""

from trimodal.formats.artifact import (
    check_beside_artifacts,
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
from trimodal.formats.finite_check import outputs_finite, weights_finite
from trimodal.formats.packed import check_pack
from trimodal.formats.reload_check import reload_checks, stock_check
from trimodal.writing import check_free, check_keeps, check_room, whole_folder, write_whole

__all__ = [
    "check_beside_artifacts", "check_free", "check_keeps", "check_pack", "check_room", "check_tellers", "copy_artifact",
    "is_artifact", "left_behind", "load", "open_model", "outputs_finite", "pack_", "pack_name", "reload_checks", "size_of",
    "stock_check", "stock_of", "unpack_", "weights_finite", "whole_folder", "write", "write_sums", "write_whole",
]  # fmt: skip
