"""A Ray cluster on this machine, of a head and two nodes; prints its address and lasts until a line comes on stdin."""

import tempfile

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
    # In a folder that nodes share, one removes the code that another already runs, and unpacks its own.
    for name in ("a", "b"):
        cluster.add_node(num_cpus=2, num_gpus=1, temp_dir=f"{folder}/{name}", include_log_monitor=True)
    print("address", cluster.address, flush=True)
    input()
    cluster.shutdown()
