"""A small task of a domain that Lorary ships nothing for: which modality a report describes."""

import json
from pathlib import Path

import yaml

from adapters.packs.pack import lot

LABELS = ("CT", "MRI", "Radiograph", "Ultrasound")
_SAID = {
    "CT": ("Axial CT after intravenous contrast", "Low-dose CT in soft-tissue window",
           "Non-contrast CT with bone window", "CT in the portal venous phase"),
    "MRI": ("T2-weighted sequences", "Diffusion-weighted imaging with an ADC map",
            "T1 sequences after gadolinium", "FLAIR and gradient-echo sequences"),
    "Radiograph": ("Frontal and lateral radiographs", "A portable supine film",
                   "Two-view plain radiographs", "A weight-bearing film"),
    "Ultrasound": ("Grayscale sonography with Doppler", "A transabdominal sonogram",
                   "Bedside sonography with a linear probe", "Duplex sonography"),
}  # fmt: skip
_FOUND = (
    "a 12 mm nodule", "no acute abnormality", "a small effusion", "mild degenerative change",
    "a simple cyst", "unchanged scarring", "an ill-defined lesion", "a healed fracture",
)  # fmt: skip
_WHERE = ("the right upper lobe", "the liver", "the left knee", "the lumbar spine", "the pelvis",
          "the left kidney", "the shoulder", "the neck")  # fmt: skip


def pick(options: tuple[str, ...], *of: object) -> str:
    """One of them, always the same for the same patient and report."""
    return options[int(lot(" ".join(map(str, of))) * len(options))]


def items(patients: int = 160) -> list[dict[str, str]]:
    """Two reports of each patient."""
    rows: dict[str, dict[str, str]] = {}
    for patient in range(patients):
        for number in range(2):
            label = LABELS[(patient + number) % len(LABELS)]
            said = pick(_SAID[label], "said", patient, number)
            found = pick(_FOUND, "found", patient, number)
            where = pick(_WHERE, "where", patient, number)
            text = f"{said} show {found} in {where}."
            rows.setdefault(text, {"text": text, "target": label, "unit": f"patient {patient}"})
    return list(rows.values())


def write(folder: Path) -> None:
    """Change the task that `lorary task new` wrote into this one."""
    spec = {
        "name": "modality",
        "about": "Which imaging modality a radiology report describes.",
        "licence": "CC0-1.0",
        "source": "Composed by program for this test: no patient's report.",
        "score": {"kind": "label"},
        "labels": list(LABELS),
        "prompts": [
            "Which imaging modality does this report describe?\n\nReport: {text}",
            "Name the modality of this study.\n\nReport: {text}",
        ],
        "split": {"held_out": 0.4, "calibration": 0.4},
    }
    recipe = {
        "stage": "sft", "adapter": "radiology/modality", "data": ["."], "steps": 30, "batch": 8,
        "forgetting": False,
    }  # fmt: skip
    rows = "".join(json.dumps(item) + "\n" for item in items())
    (folder / "items.jsonl").write_text(rows)
    (folder / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "card.md").write_text(
        "# Modality\n\nComposed by program. It shows how a task is made, and no medical skill.\n"
    )
