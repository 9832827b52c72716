"""The shapes that expressions on our dashboards have."""

WINDOW = "$__rate_interval"
BY_VERSION = "domain, adapter, version"
NAMED = "{{domain}}/{{adapter}}@{{version}}"


def rate(metric: str, by: str, **labels: str) -> str:
    """Events a second, summed by labels. A label's value is a regular expression."""
    return f"sum by ({by}) (rate({metric}{_matching(labels)}[{WINDOW}]))"


def quantile(share: float, histogram: str, by: str, **labels: str) -> str:
    """The value that so large a share of observations stays below."""
    buckets = f"rate({histogram}_bucket{_matching(labels)}[{WINDOW}])"
    return f"histogram_quantile({share}, sum by ({by}, le) ({buckets}))"


def mean(histogram: str, by: str, **labels: str) -> str:
    """The mean observation."""
    return f"{rate(f'{histogram}_sum', by, **labels)} / {rate(f'{histogram}_count', by, **labels)}"


def share(part: str, whole: str) -> str:
    """A part of a whole; 0 where there is a whole and no part of it."""
    return f"({part} or 0 * {whole}) / {whole}"


def top(expr: str, most: int = 10) -> str:
    """The series with the highest values."""
    return f"topk({most}, {expr})"


def _matching(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ", ".join(f'{name}=~"{value}"' for name, value in labels.items()) + "}"
