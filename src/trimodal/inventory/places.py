"""To which site each stored tensor belongs: what is in no place becomes visible here."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from trimodal.core import Layout, Site, StoredTensor, Tower


def match_tensors_to_sites(module: nn.Module, layout: Layout) -> Iterator[tuple[StoredTensor, Site | None]]:
    """Every tensor of the checkpoint once, whatever its names, with the site that it is a weight, a bias or a part of.

    A tensor with several names belongs to the site that has one of them. Works on the meta device.
    """
    sites = {path: site for site in layout.sites for path in (site.path, *site.tied)}
    names: dict[object, list[str]] = {}
    tensors: dict[object, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            names.setdefault(_tensor_identity(value), []).append(name)
            tensors[_tensor_identity(value)] = value
    for key, called in names.items():
        found = [(name, site) for name in called if (site := _find_site(name, sites)) is not None]
        name, home = found[0] if found else (called[0], None)
        tower = home.tower if home is not None else find_owning_tower(name, layout.towers)
        yield StoredTensor(name, tower, tensors[key].numel() * tensors[key].element_size()), home


def _tensor_identity(tensor: Tensor) -> object:
    """The same for tensors that share their memory; without values the object itself."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape


def _find_site(name: str, sites: dict[str, Site]) -> Site | None:
    """The site with the longest path that `name` lies in."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in sites:
            return sites[path]
    return None


def find_owning_tower(name: str, towers: tuple[Tower, ...]) -> str:
    """The tower with the longest prefix of `name`, empty if none has one."""
    fitting = [(len(p), t.name) for t in towers for p in t.prefixes if not p or name == p or name.startswith(f"{p}.")]
    return max(fitting)[1] if fitting else ""
