"""docs/reference/events.md: public events, and the events of the audit log."""

from reference.markdown import code, first_paragraph, table
from registry.model.machine import events
from registry.model.webhooks import EventType

PUBLIC: dict[EventType, tuple[str, str, str]] = {
    "ai.lorary.version.published": (
        "medical/coder@7", "digest, base, publisher", "A version was published.",
    ),
    "ai.lorary.version.evaluated": (
        "medical/coder@7", "digest, report, suites, evaluator", "An evaluation was recorded.",
    ),
    "ai.lorary.version.approved": (
        "medical/coder@7", "digest, approver", "An expert approved a version.",
    ),
    "ai.lorary.version.revoked": ("medical/coder@7", "reason, actor", "A version was revoked."),
    "ai.lorary.review.waiting": (
        "reviews/1f2e3d", "review, title, items",
        "A review was opened; `items` is their number. Adapter and versions are hidden.",
    ),
    "ai.lorary.alias.promoted": (
        "medical/coder@production", "alias, version, previous, actor",
        "An alias was set, or moved to a newer version.",
    ),
    "ai.lorary.alias.rolled_back": (
        "medical/coder@production",
        "alias, version, previous, actor; of a canary: alias, candidate, bound, limit, actor",
        "An alias was moved to an older version, or a canary was rolled back.",
    ),
}  # fmt: skip
"""An example of the subject, the data beside domain, adapter and version, and the meaning."""


def page() -> str:
    """The page."""
    public = [(code(kind), code(s), data, about) for kind, (s, data, about) in PUBLIC.items()]
    logged = [
        (
            code(name),
            ", ".join(code(field) for field in kind.__struct_fields__),
            "yes" if kind.optional else "",
            first_paragraph(kind),
        )
        for name, kind in sorted(events().items())
    ]
    return f"""# Events

## Public events

CloudEvents 1.0 in JSON, from `GET /api/v1/events`, `lorary events` and
[webhooks](../how-to/events-and-webhooks.md).

{table(("type", "subject", "data", "meaning"), public)}
## Events of the audit log

What `GET /api/v1/log` and `lorary log` show. A reader that does not know an optional event may pass
over it ([design note 009](../design/009-newer-logs.md)).

{table(("event", "fields", "optional", "meaning"), logged)}"""
