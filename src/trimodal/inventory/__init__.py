"""What a model is made of and what it costs: `inspect`."""

from trimodal.inventory.counting import inspect
from trimodal.inventory.reading import InventorySource, read_inventory
from trimodal.inventory.result import Inventory, OtherParameters, SiteRow, TowerRow

__all__ = ["Inventory", "InventorySource", "OtherParameters", "SiteRow", "TowerRow", "inspect", "read_inventory"]
