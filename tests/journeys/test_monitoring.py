"""An operator opens the dashboards: every panel has something to show, from the real processes."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from registry.access import Secret
from registry.registry import Registry
from registry.store import open_store
from tests.journeys.conftest import Site
from tests.support import showing
from tests.support.front import front
from tests.support.prometheus import Target, prometheus
from tests.support.scenario import Scene, play, prepare


def test_every_panel_alert_and_autoscaler_has_data_in_a_day_of_a_site(
    site: Site, tmp_path: Path
) -> None:
    server, service = urlsplit(site.api), urlsplit(site.registry)
    assert server.port is not None
    registry = Registry(open_store(site.store))
    with front({"pool": [server.port]}, tmp_path) as envoy, httpx.Client(timeout=60) as client:
        base = BaseModel.from_directory(default_model(), SMALL_MODEL)
        operator = Secret.parse(site.operator)
        scene = Scene(registry, operator, base, envoy.url, site.registry)
        targets = [
            Target("lorary-serving", server.netloc, key=site.operator, pool="pool"),
            Target("lorary-registry", service.netloc, key=site.operator),
            Target("lorary-front", urlsplit(envoy.stats).netloc, "/stats/prometheus"),
        ]
        prepare(scene)
        time.sleep(2)  # the servers read it
        with prometheus(targets, tmp_path) as watching:
            for _ in range(3):
                play(scene, client)
                time.sleep(1.5)
            assert not showing.empty(watching)
            assert not showing.unknown(watching)
    registry.close()
