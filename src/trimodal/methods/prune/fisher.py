"""Block Fisher: what units are worth to the loss, together (Kwon et al. 2022, arXiv 2204.09656).

Idea. Give every unit (neuron, head, channel) a mask m_u that multiplies it wherever it is read, and is 1. The loss's
gradient with respect to the masks says what removing units does to the loss, and its products which units make up for
each other.

Problem. Removing the units S changes the loss of a trained model by about ½ 1_Sᵀ F 1_S with F = E[(∂L/∂m)(∂L/∂m)ᵀ] (u, u),
the Fisher information of the masks of one layer (blocks of other layers are left out). Choose S of a given size for which
that is least.

Algorithm. Over up to 64 samples, one backward pass each:
    1. per sample, for the weights W of all layers that read the units:
       ∂L/∂m_u = Σ over the entries of u of W · ∂L/∂W                                       (u,)
    2. F = mean of its outer products                                                       (u, u)
    3. S = the units with the least F_uu (the paper's mask search)
    4. for every other unit, in ascending order of F_uu: add it to S, then take out of S the one whose return leaves the
       least 1_Sᵀ F 1_S (the paper's mask rearrangement; it may be the same)
With `scope: tower` or `global` step 3 ranks units by ½ F_uu over several layers first, as the paper does.

Cost one backward pass per sample, u² numbers per layer. With fewer samples than units F has not full rank: step 4 then finds
units that cancel on these very samples, so give as many as there are. It exchanges one unit at a time: a pair that could only
leave together stays. Nothing makes up for what goes (the paper's third
step, a scale for what stays, is left out: `distill` does more, and `score: hessian` updates the consumer).

By hand. Three units, gradients (2, −2, 1) and (0, 0, 1) on two samples: F = [[2, −2, 1], [−2, 2, −1], [1, −1, 1]]. Two are to
go. F_uu says the third and the first: ½ (1 + 2 + 2·1) = 2.5. Adding the second, 1ᵀ F 1 = 1; without the first it would be
1, without the second 5, without the third 0: the first and the second go, which cancel, at a loss of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimodal.core import Place


def has_plain_consumers(place: Place) -> bool:
    """Whether every layer that reads the units does so by plain columns of its weight."""
    return all(site.kind in ("linear", "conv") and site.groups == 1 for site in place.consumers)


def rearrange_kept_units(fisher: Tensor, keep: int) -> list[int]:
    """Steps 3 and 4 for F (u, u): the units kept, ascending."""
    diagonal = fisher.diagonal()
    order = torch.sort(diagonal, stable=True).indices
    count = len(fisher) - keep
    gone = torch.zeros(len(fisher), dtype=torch.bool, device=fisher.device)
    gone[order[:count]] = True
    joint = fisher @ gone.to(fisher)  # F 1_S
    total = float(joint[gone].sum())  # 1_Sᵀ F 1_S
    for unit in order[count:] if count else ():
        total += float(2 * joint[unit] + diagonal[unit])
        joint = joint + fisher[:, unit]
        gone[unit] = True
        without = (total - 2 * joint + diagonal).masked_fill(~gone, torch.inf)
        back = int(without.argmin())
        total = float(without[back])
        joint = joint - fisher[:, back]
        gone[back] = False
    return (~gone).nonzero().squeeze(1).tolist()
