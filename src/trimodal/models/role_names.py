"""What a layer does, by what it is called: the roles that declared families use, for models that nobody declared.

Only names that mean one thing everywhere are here: `dense`, `proj` and `wo` are other layers in every model. Those of attention and
perceptrons count in a block alone: outside of one `fc1` is any layer.
"""

from __future__ import annotations

import re

_IN_BLOCKS = {
    "query": ("q_proj", "query", "query_proj", "q", "q_lin", "q_linear", "linear_q", "to_q", "wq"),
    "key": ("k_proj", "key", "key_proj", "k", "k_lin", "k_linear", "linear_k", "to_k", "wk"),
    "value": ("v_proj", "value", "value_proj", "v", "v_lin", "v_linear", "linear_v", "to_v", "wv"),
    "output": ("o_proj", "out_proj", "out_lin", "linear_out"),
    "up": ("fc1", "up_proj", "lin1", "linear1", "linear_fc1", "wi", "wi_1", "c_fc", "fc_in", "dense_h_to_4h", "intermediate_dense"),
    "down": ("fc2", "down_proj", "lin2", "linear2", "linear_fc2", "fc_out", "dense_4h_to_h", "output_dense"),
    "gate": ("gate_proj", "wi_0"),
}
_ROLES = {name: role for role, names in _IN_BLOCKS.items() for name in names}
_ENDINGS = {"attention.output.dense": "output", "intermediate.dense": "up", "output.dense": "down"}  # BERT's, the first that fits
_HEADS = {"lm_head", "classifier", "score", "qa_outputs"}
_PATCHES = re.compile(r"patch_(embed|conv|proj)")
_PROJECTORS = re.compile(r"projector(\.|$)|_projection$|_projection\.(linear|dense)_?\d?$")


def role_in_block(branch: str, kind: str) -> str:
    """The role of a layer whose path inside of its block is `branch`: its `kind`, or of a linear layer what its name says."""
    if kind != "linear":
        return kind
    told = next((role for ending, role in _ENDINGS.items() if branch.endswith(ending)), kind)
    return _ROLES.get(branch.rpartition(".")[2], told)


def role_outside_blocks(path: str, kind: str) -> str:
    """The role of a layer at `path`, outside of all blocks: its `kind`, but `patch` for a convolution that makes patches, and `head`,
    `pooler` or `projector` for a linear layer in what is called so."""
    parts = path.split(".")
    if kind == "conv":
        return "patch" if _PATCHES.search(path) else kind
    if kind != "linear":
        return kind
    return "head" if _HEADS.intersection(parts) else "pooler" if "pooler" in parts else "projector" if _PROJECTORS.search(path) else kind
