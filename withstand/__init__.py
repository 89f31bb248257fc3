"""A client of the service, for people who have nothing but its address.

from withstand import Client

with Client("http://127.0.0.1:8000") as client:
    job = client.evaluate({"models": ["resnet_mini.fashion_mnist"], "dataset": "fashion_mnist_test"}, preset="rotation-flip")
    job.wait(progress=True)
    print(job.report_as("markdown").decode())

It imports httpx and the standard library alone.
"""

from withstand.async_client import AsyncClient
from withstand.client import Client
from withstand.errors import ClientError
from withstand.jobs import AsyncJob, Job

__all__ = ["AsyncClient", "AsyncJob", "Client", "ClientError", "Job"]
