"""The domain packs: for each domain a task with verifiable answers, its data and its adapter."""

from adapters.packs import exams, financial, legal, medical
from adapters.packs.pack import DataSet, DomainPack, Item

PACKS: dict[str, DomainPack] = {
    pack.domain: pack for pack in (medical.PACK, legal.PACK, financial.PACK)
}
"""The demonstration's task of each domain."""

TASKS: dict[str, DomainPack] = {
    **PACKS,
    "medical-category": medical.CATEGORY,
    "medical-exam": exams.MEDICAL,
    "legal-jurisdiction": legal.JURISDICTION,
    "legal-exam": exams.LEGAL,
    "legal-cases": exams.CASES,
    "financial-section": financial.SECTION_BY_GROUP,
    "financial-sector": financial.SECTOR,
    "financial-exam": exams.FINANCIAL,
    "financial-numbers": exams.NUMBERS,
}
"""Every task by the name that recipes call it."""

__all__ = ["PACKS", "TASKS", "DataSet", "DomainPack", "Item"]
