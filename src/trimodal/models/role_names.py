"""What a layer does, by what it is called: the roles that declared families use, for models that nobody declared.

Only names that mean one thing everywhere are here: `dense`, `proj` and `wo` are other layers in every model.
"""

from __future__ import annotations

_NAMES = {
    "query": ("q_proj", "query", "query_proj", "q", "q_lin", "q_linear", "linear_q", "to_q", "wq"),
    "key": ("k_proj", "key", "key_proj", "k", "k_lin", "k_linear", "linear_k", "to_k", "wk"),
    "value": ("v_proj", "value", "value_proj", "v", "v_lin", "v_linear", "linear_v", "to_v", "wv"),
    "output": ("o_proj", "out_proj", "out_lin", "linear_out"),
    "up": ("fc1", "up_proj", "lin1", "linear1", "linear_fc1", "wi", "wi_1", "c_fc", "fc_in", "dense_h_to_4h", "intermediate_dense"),
    "down": ("fc2", "down_proj", "lin2", "linear2", "linear_fc2", "fc_out", "dense_4h_to_h", "output_dense"),
    "gate": ("gate_proj", "wi_0"),
    "head": ("lm_head", "classifier", "score", "qa_outputs"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}


def role_of_layer(path: str, kind: str) -> str:
    """The role of the layer at `path`: its `kind`, or for a linear layer what the last part of its name says."""
    return _ROLES.get(path.rpartition(".")[2], kind) if kind == "linear" else kind
