"""Methods that leave what is computed as it is, and compute it with less."""
