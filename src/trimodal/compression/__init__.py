"""Compress: carry out a plan on a model, or try what options would do at a place of it."""

from trimodal.compression.options import open_context, try_place
from trimodal.compression.progress import Progress
from trimodal.compression.run import compress_
from trimodal.compression.stage_folders import StageFolders
from trimodal.compression.trial import Trial, apply_trial_

__all__ = ["Progress", "StageFolders", "Trial", "apply_trial_", "compress_", "open_context", "try_place"]
