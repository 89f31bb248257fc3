"""The devices of a node, as the process that talks to Ray names them."""

import pytest

from service.cluster.driver import places_on


@pytest.mark.parametrize(
    ("resources", "devices"),
    [
        ({"CPU": 16.0, "GPU": 2.0}, [("cuda:0", 0), ("cuda:1", 0)]),
        ({"CPU": 10.0}, [("cpu:0", 2), ("cpu:1", 2), ("cpu:2", 2), ("cpu:3", 2)]),
        ({"CPU": 1.0}, [("cpu:0", 1)]),
        ({"memory": 1e9}, []),
    ],
)
def test_a_node_has_its_gpus_or_shares_of_its_cpu(resources: dict[str, float], devices: list[tuple[str, int]]) -> None:
    node = {"NodeID": "3f2a9c" + "0" * 50, "NodeManagerAddress": "10.0.0.5", "Resources": resources}
    assert [(each.name.removeprefix("ray:10.0.0.5-3f2a9c/"), each.cores) for each in places_on(node)] == devices
