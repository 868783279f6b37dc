"""moto as an S3 server, with the bucket that SeaweedFS makes, and one whose name is the page of SeaweedFS's health."""

import signal

import boto3
from moto.server import ThreadedMotoServer

ThreadedMotoServer("0.0.0.0", 8333, verbose=False).start()
client = boto3.client("s3", endpoint_url="http://127.0.0.1:8333")
for name in ("tapir", "healthz"):
    client.create_bucket(Bucket=name)
print("ready", flush=True)
signal.pause()
