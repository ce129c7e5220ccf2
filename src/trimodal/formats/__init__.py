"""Save and load. One file per concern; exports of other runtimes will stand beside them."""

from trimodal.formats.archive import is_archive
from trimodal.formats.artifact import (
    copy_artifact,
    find_changed_side_files,
    load,
    open_model,
    pack_weights_,
    stock_support_of,
    unpack_weights_,
    write_artifact,
    write_checksums,
)
from trimodal.formats.finite_check import finite_outputs_check, finite_weights_check, run_finite_checks
from trimodal.formats.folder_files import (
    check_not_inside_artifact,
    check_sources_stay,
    find_uncarried_files,
    is_artifact,
    measure_folder_size,
    pack_name_of,
)
from trimodal.formats.packed import check_pack_name
from trimodal.formats.reload_check import run_fresh_checks, run_reload_checks, run_stock_check
from trimodal.writing import (
    check_disk_space,
    check_not_replaced,
    check_output_place,
    open_atomic_folder,
    write_text_atomically,
)

__all__ = [
    "check_disk_space", "check_not_inside_artifact", "check_not_replaced", "check_output_place", "check_pack_name", "check_sources_stay",
    "copy_artifact", "find_changed_side_files", "find_uncarried_files", "finite_outputs_check",
    "finite_weights_check", "is_archive", "is_artifact", "load", "measure_folder_size", "open_atomic_folder", "open_model",
    "pack_name_of", "pack_weights_", "run_finite_checks", "run_fresh_checks", "run_reload_checks",
    "run_stock_check", "stock_support_of", "unpack_weights_", "write_artifact", "write_checksums",
    "write_text_atomically",
]  # fmt: skip
