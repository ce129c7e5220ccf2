"""A model as phones run it: fixed shapes, and layers that compute from our codes with operators that name a quantization."""
