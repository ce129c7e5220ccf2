"""Loading without the libraries' bars: one for each of some hundred tensors tells nobody anything, least of all in a notebook."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as reports


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Switch off the bars of Transformers and the hub, and leave them as they were; those who have asked Transformers to be
    verbose keep them. Also a decorator."""
    if reports.get_verbosity() <= logging.INFO:
        yield
        return
    loading, fetching = reports.is_progress_bar_enabled(), not are_progress_bars_disabled()
    if loading or fetching:
        reports.disable_progress_bar()
    try:
        yield
    finally:
        if loading:
            reports.enable_progress_bar()
        if loading and not fetching:
            disable_progress_bars()
        if fetching and not loading:
            enable_progress_bars()
