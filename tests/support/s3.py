"""A real S3 server (SeaweedFS, one process) for tests."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.servers import BIN, free_port, running

ACCESS, SECRET, BUCKET = "test-access", "test-secret", "lorary"


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and the variables that make boto3 use it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """For this process or another."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "LORARY_S3_ENDPOINT": self.endpoint,
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start it with one bucket in an empty folder."""
    command, endpoint = s3_command(folder)
    with running(command, folder / "weed.log", ready=endpoint):
        create_bucket(endpoint)
        yield S3Server(endpoint)


def s3_command(folder: Path) -> tuple[list[str], str]:
    """How to start a server over `folder`, again and again, and where it then listens."""
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir(exist_ok=True)
    s3, *others = (free_port() for _ in range(5))
    command = [
        str(BIN / "weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-s3.config={config}",
        f"-s3.port={s3}", f"-master.port={others[0]}", f"-volume.port={others[1]}",
        f"-filer.port={others[2]}", f"-admin.port={others[3]}", "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]  # fmt: skip
    return command, f"http://127.0.0.1:{s3}"


def create_bucket(endpoint: str) -> None:
    """As soon as the server lets us: it answers before its parts have found each other."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    for _ in range(100):
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 server never took a bucket")
