"""Settings come from the environment as text, and a wrong one is told by name."""

import os
import subprocess

import pytest
from pydantic import ValidationError

from registry.settings import RegistrySettings
from serving.settings import RENAMED, ServingSettings
from tests.support.servers import BIN


def test_every_number_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in ServingSettings.model_fields.items():
        if isinstance(field.default, int | float):
            monkeypatch.setenv(f"LORARY_{name.upper()}", str(field.default))
    assert ServingSettings() == ServingSettings.model_validate(ServingSettings().model_dump())


def test_a_wrong_setting_is_named_and_nothing_starts() -> None:
    done = subprocess.run(
        [str(BIN / "lorary"), "serve"],
        env={**os.environ, "LORARY_MAX_LORA_RANK": "17"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "LORARY_MAX_LORA_RANK" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_old_name_of_a_setting_is_refused_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for old, new in RENAMED.items():
        assert new.removeprefix("LORARY_").lower() in ServingSettings.model_fields
        with monkeypatch.context() as set_one:
            set_one.setenv(old, "1")
            with pytest.raises(ValidationError, match=f"{old} is now {new}"):
                ServingSettings()


def test_admission_has_the_bounds_that_the_settings_say() -> None:
    limits = RegistrySettings(max_lora_rank=64, max_upload_bytes=7).limits
    assert (limits.max_rank, limits.max_file_bytes) == (64, 7)


@pytest.mark.parametrize("proxies", ["10.0.0.5/8", "10.0.0.0/99", "127.0.0.1, proxy/8"])
def test_a_network_of_proxies_that_is_none_is_refused(proxies: str) -> None:
    """The server would take it for a host's name, and trust nobody."""
    with pytest.raises(ValidationError, match="trusted_proxies"):
        RegistrySettings(trusted_proxies=proxies)
    RegistrySettings(trusted_proxies="127.0.0.1, 10.0.0.0/8, fd00::/8, *, proxy")
