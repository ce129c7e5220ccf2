"""What training does to its material so that no question comes twice alike. Every function draws from a generator that it is given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _draw_uniform(count: int, low: float, high: float, chance: torch.Generator) -> Tensor:
    """(count,) float32 in [low, high)."""
    return low + (high - low) * torch.rand(count, generator=chance)


def augment_images(pixels: Tensor, chance: torch.Generator) -> Tensor:
    """Rotate, scale, shear, shift, thicken or thin, and add noise: (B, 1, S, S) -> the same shape."""
    count, ground = len(pixels), float(pixels.min())
    angle, shear = _draw_uniform(count, -0.26, 0.26, chance), _draw_uniform(count, -0.25, 0.25, chance)
    wide, high = _draw_uniform(count, 0.82, 1.22, chance), _draw_uniform(count, 0.85, 1.2, chance)
    cos, sin = torch.cos(angle), torch.sin(angle)
    right, down = _draw_uniform(count, -0.2, 0.2, chance), _draw_uniform(count, -0.15, 0.15, chance)
    top = torch.stack([wide * cos, shear - sin, right], dim=1)
    bottom = torch.stack([sin, high * cos, down], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(pixels.shape), align_corners=False)
    ink = F.grid_sample(pixels - ground, grid, align_corners=False)
    thick = F.max_pool2d(ink, 3, stride=1, padding=1)
    thin = -F.max_pool2d(-ink, 3, stride=1, padding=1)
    mix = _draw_uniform(count, -0.5, 0.5, chance)[:, None, None, None]
    ink = torch.where(mix > 0, ink + mix * (thick - ink), ink - mix * (thin - ink))
    ink = ink * _draw_uniform(count, 0.75, 1.15, chance)[:, None, None, None]
    return ink + ground + 0.15 * torch.randn(ink.shape, generator=chance)


def augment_waves(waves: Tensor, lengths: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change the speed, move in time, add noise: (B, N) and lengths (B,) -> the same, with new lengths."""
    count, room = waves.shape
    speed = torch.maximum(_draw_uniform(count, 0.85, 1.2, chance), lengths / room)
    duration = (lengths / speed).floor()
    start = (torch.rand(count, generator=chance) * (room - duration).clamp(min=0, max=1600)).floor()
    source = (torch.arange(room) - start[:, None]) * speed[:, None]  # where each new sample comes from
    left = source.floor().long()
    inside = (left >= 0) & (left < lengths[:, None] - 1)
    left = left.clamp(0, room - 2)
    weight = source - left
    moved = torch.where(inside, waves.gather(1, left) * (1 - weight) + waves.gather(1, left + 1) * weight, 0.0)
    level = 10 ** (-_draw_uniform(count, 28.0, 70.0, chance)[:, None] / 20)  # noise amplitude below the peak of 0.9
    return moved + level * torch.randn(moved.shape, generator=chance), (start + duration).long()


def augment_features(features: Tensor, chance: torch.Generator) -> Tensor:
    """Stretch the mel axis as another throat would, tilt the spectrum, hide a band and a while: (B, M, F)."""
    count, mels, frames = features.shape
    stretch, shift = _draw_uniform(count, 0.9, 1.12, chance), _draw_uniform(count, -0.05, 0.05, chance)
    zeros, ones = torch.zeros(count), torch.ones(count)
    rows = torch.stack([ones, zeros, zeros, zeros, stretch, shift], dim=1).view(count, 2, 3)
    grid = F.affine_grid(rows, [count, 1, mels, frames], align_corners=False)
    warped = F.grid_sample(features[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    tilt = _draw_uniform(count, -0.3, 0.3, chance)[:, None, None] * torch.linspace(-1, 1, mels)[None, :, None]
    band = _draw_spans(count, mels, 6, chance)[:, :, None]
    while_ = _draw_spans(count, frames, 6, chance)[:, None, :]
    return (warped + tilt).masked_fill(band | while_, -0.6)


def _draw_spans(count: int, size: int, longest: int, chance: torch.Generator) -> Tensor:
    """One random span per row: bool (count, size), each 0 to `longest` wide."""
    width = _draw_uniform(count, 0, longest, chance)[:, None]
    start = _draw_uniform(count, 0, 1, chance)[:, None] * (size - width)
    place = torch.arange(size)[None]
    return (place >= start) & (place < start + width)
