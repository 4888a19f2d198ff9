"""Loader workers outlive a signal that a whole group of processes gets, until the training ends them."""

import multiprocessing
import subprocess
import sys
import time
from contextlib import closing

import pytest
import torch

from lorat.train.data.batches import make_loader


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the sender of a signal is not known")
def test_no_thread_of_a_worker_ends_it_by_sigterm_from_others(source):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # or nothing starts threads before our code runs in a worker
    try:
        with closing(make_loader(source, workers=1, prefetch=1)) as batches:
            next(batches)
            (worker,) = multiprocessing.active_children()
            for _ in range(20):
                subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # from others than the training
                time.sleep(0.02)
            assert len(list(batches)) == 8
    finally:
        torch.set_num_threads(threads)
