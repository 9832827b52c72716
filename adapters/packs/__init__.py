"""The domain packs: for each domain a task with verifiable answers, its data and its adapter."""

from adapters.packs import financial, legal, medical
from adapters.packs.pack import DataSet, DomainPack, Item

PACKS: dict[str, DomainPack] = {
    pack.domain: pack for pack in (medical.PACK, legal.PACK, financial.PACK)
}
"""The demonstration's task of each domain."""

TASKS: dict[str, DomainPack] = dict(PACKS)
"""Every task by the name that recipes call it."""

__all__ = ["PACKS", "TASKS", "DataSet", "DomainPack", "Item"]
